"""Groups of parameters with a learning rate, a clipping or a start of their own (SYSTEMS G-20..28).

Every parameter has exactly one label, "component/role": what the model's `parameter_label(name)`
says, or "model/matrix" for kernels and "model/other" for the rest where it says nothing. A rule
names a component, a role or a whole label:

    optimizer.groups     {"dynamics": 0.1, "mamba": 2.0}   multipliers of the learning rate
    optimizer.group_clip {"rwkv": 1.0, "mamba": 1.0}       bounds of the norm over each group
    optimizer.freeze     {"mamba": 500}                    frozen until that step; -1 = throughout

A parameter that several rules name gets the product of the multipliers, each of the clippings, and
the latest of the steps. The two opposite counsels of G-20, dynamics at 0.1x and Mamba at 1.5x to
3x, are each one field.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any

import optax
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of

RULES = ("groups", "group_clip", "freeze")
Labels = dict[str, str]


def parameter_labels(model: Any, names) -> Labels:
    """{parameter name: "component/role"}, one label each, in the order of `names`.

    Raises:
      ValueError: the model's own labels are not of that form.
    """
    label = traits_of(model).parameter_label
    if label is None:
        kinds = {True: "model/matrix", False: "model/other"}
        return {name: kinds[name.rsplit("/", 1)[-1] == "kernel"] for name in names}
    labels = {name: label(name) for name in names}
    for name, found in labels.items():
        if found.count("/") != 1 or not all(found.split("/")):
            raise ValueError(f"parameter_label({name!r}) is {found!r}, expected 'component/role'")
    return labels


def components(labels: Labels) -> dict[str, list[str]]:
    """Parameter names by component, sorted by component."""
    found: dict[str, list[str]] = {}
    for name, label in labels.items():
        found.setdefault(label.split("/")[0], []).append(name)
    return dict(sorted(found.items()))


def has_rules(config: ConfigDict) -> bool:
    """Return whether any group has a rule of its own."""
    return any(len(config.optimizer[rule]) for rule in RULES)


def check_rules(config: ConfigDict, labels: Labels) -> None:
    """Refuse rules for groups that the model has not, and values that make no sense.

    Raises:
      UserError: names the field, what is wrong, and the nearest group.
    """
    valid = sorted({part for x in labels.values() for part in (x, *x.split("/"))})
    for rule in RULES:
        for group, value in config.optimizer[rule].items():
            field = f"config.optimizer.{rule}.{group}"
            if group not in valid:
                near = difflib.get_close_matches(group, valid, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise UserError(f"{field}: the model has no such group; {hint}{_listed(valid)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{field}: expected a number, got {value!r}")
            if rule == "freeze" and (int(value) != value or value < -1):
                raise UserError(f"{field}: a step, or -1 for throughout, got {value}")
            if rule == "group_clip" and not value > 0:
                raise UserError(f"{field}: must be positive, got {value}")
            if rule == "groups" and not (math.isfinite(value) and value >= 0):
                raise UserError(f"{field}: must not be negative, got {value}")
    if all(math.isinf(step) for step in frozen_until(config, labels).values()):
        raise UserError("config.optimizer.freeze: all parameters are frozen, nothing would learn")


def _listed(valid: list[str]) -> str:
    return "valid: " + ", ".join(name for name in valid if "/" not in name) + ", or component/role"


def named_by(group: str, label: str) -> bool:
    """Return whether a rule for `group` applies to parameters with this label."""
    return group == label or group in label.split("/")


def multipliers(config: ConfigDict, labels: Labels) -> dict[str, float]:
    """Learning-rate multiplier by label."""
    groups = config.optimizer.groups
    return {
        label: math.prod(float(x) for group, x in groups.items() if named_by(group, label))
        for label in sorted(set(labels.values()))
    }


def frozen_until(config: ConfigDict, labels: Labels) -> dict[str, float]:
    """The step from which each parameter learns; infinity = never."""
    until = {g: math.inf if s < 0 else float(s) for g, s in config.optimizer.freeze.items()}
    return {
        name: max((step for group, step in until.items() if named_by(group, label)), default=0.0)
        for name, label in labels.items()
    }


def with_groups(
    config: ConfigDict,
    labels: Labels,
    make_main: Callable[[int], optax.GradientTransformation],
    clip: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """The optimiser with the rules of `config.optimizer` around it.

    Args:
      config: complete config.
      labels: of all parameters.
      make_main: the optimiser, its schedule `n` steps further; n is where a group begins.
      clip: clipping by the norm over all parameters that learn.

    Gradients of frozen parameters are zero before any norm is taken. An optimiser of a group that
    is thawed later begins with fresh moments and counts from there, and its learning rate is that
    of the run at that step.
    """
    starts = frozen_until(config, labels)
    names = {step: _state_name(step) for step in sorted(set(starts.values()))}
    by_start = {name: names[step] for name, step in starts.items()}

    def thawed(make: Callable[[int], optax.GradientTransformation]):
        """An optimiser for each start: zero before it, its state untouched until then."""
        parts = {}
        for step, name in names.items():
            if math.isinf(step):
                parts[name] = optax.set_to_zero()
            elif step == 0:
                parts[name] = make(0)
            else:
                parts[name] = optax.conditionally_mask(
                    make(int(step)), lambda count, step=int(step): count >= step
                )
        return optax.partition(parts, by_start)

    clips = [
        optax.masked(
            optax.clip_by_global_norm(float(bound)),
            {name: named_by(group, label) for name, label in labels.items()},
        )
        for group, bound in sorted(config.optimizer.group_clip.items())
    ]
    scales = {label: optax.scale(x) for label, x in multipliers(config, labels).items()}
    chain = [*clips, clip]
    if len(names) > 1:
        chain = [thawed(lambda _: optax.identity()), *chain, thawed(make_main)]
    else:
        chain = [*chain, make_main(0)]
    return optax.chain(*chain, optax.partition(scales, labels))


def _state_name(step: float) -> str:
    """A name that does not change with the list of other groups, for checkpoints."""
    return "never" if math.isinf(step) else f"from_{int(step)}"


def suggested_warmup(parameters: int, steps: int, factor: float = 3.0) -> int:
    """Steps of warm-up for a recurrent hybrid of this size (G-22).

    `factor`, 2 to 4, times a transformer's warm-up, which is taken to grow with the square root of
    its size: 667 steps at 125M. That gives the source's own settings, 2000 at 125M (V3_RESEARCH_
    NOTES 2.30) and about 500 at 11M (its V3 config), at factor 3. Never more than a tenth of the
    run, which did better there than half of it.
    """
    if not 1.0 <= factor <= 4.0:
        raise UserError(f"factor of the warm-up: must lie in [1, 4], got {factor}")
    transformer = 667.0 * math.sqrt(parameters / 125e6)
    return max(1, min(round(factor * transformer), steps // 10))

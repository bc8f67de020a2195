"""Parameter groups with their own learning rate, clipping or start (docs/systems.md, G-20 to G-28).

Every parameter has one label, "component/role", from the model's `parameter_label(name)`; without
it, kernels are "model/matrix" and the rest "model/other". A rule names a component, a role or a
whole label:

    optimizer.groups     {"dynamics": 0.1, "mamba": 2.0}   multipliers of the learning rate
    optimizer.group_clip {"rwkv": 1.0, "mamba": 1.0}       limits of the norm over each group
    optimizer.freeze     {"mamba": 500}                    frozen until that step; -1 = throughout

A parameter that matches several rules gets the multipliers' product, every clipping, and the latest
of the steps.
"""

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
    """Return {parameter name: "component/role"}; raise ValueError if a label is malformed."""
    label = traits_of(model).parameter_label
    if label is None:
        kinds = {True: "model/matrix", False: "model/other"}
        return {name: kinds[name.rsplit("/", 1)[-1] == "kernel"] for name in names}
    labels = {name: label(name) for name in names}
    for name, text in labels.items():
        if text.count("/") != 1 or not all(text.split("/")):
            raise ValueError(f"parameter_label({name!r}) is {text!r}, expected 'component/role'")
    return labels


def components(labels: Labels) -> dict[str, list[str]]:
    """Return parameter names by component, sorted by component."""
    names: dict[str, list[str]] = {}
    for name, label in labels.items():
        names.setdefault(label.split("/")[0], []).append(name)
    return dict(sorted(names.items()))


def has_rules(config: ConfigDict) -> bool:
    """Return whether any group has a rule of its own."""
    return any(len(config.optimizer[rule]) for rule in RULES)


def check_rules(config: ConfigDict, labels: Labels) -> None:
    """Raise UserError, naming field and nearest group, for unknown groups and invalid values."""
    valid = sorted({part for x in labels.values() for part in (x, *x.split("/"))})
    for rule in RULES:
        for group, value in config.optimizer[rule].items():
            field = f"config.optimizer.{rule}.{group}"
            if group not in valid:
                near = difflib.get_close_matches(group, valid, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}? " if near else ""
                names = ", ".join(name for name in valid if "/" not in name)
                raise UserError(
                    f"{field}: the model has no such group; {hint}choose from: {names}, "
                    "or component/role"
                )
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{field}: expected a number, got {value!r}")
            if rule == "freeze" and (int(value) != value or value < -1):
                raise UserError(f"{field}: must be a step, or -1 for throughout, got {value}")
            if rule == "group_clip" and not value > 0:
                raise UserError(f"{field}: must be positive, got {value}")
            if rule == "groups" and not (math.isfinite(value) and value >= 0):
                raise UserError(f"{field}: must not be negative, got {value}")
    if all(math.isinf(step) for step in frozen_until(config, labels).values()):
        raise UserError(
            "config.optimizer.freeze: all parameters are frozen, nothing would be trained"
        )


def named_by(group: str, label: str) -> bool:
    """Return whether a rule for `group` applies to parameters with this label."""
    return group == label or group in label.split("/")


def multipliers(config: ConfigDict, labels: Labels) -> dict[str, float]:
    """Return the learning-rate multiplier of each label."""
    groups = config.optimizer.groups
    return {
        label: math.prod(float(x) for group, x in groups.items() if named_by(group, label))
        for label in sorted(set(labels.values()))
    }


def frozen_until(config: ConfigDict, labels: Labels) -> dict[str, float]:
    """Return the step from which each parameter is trained; infinity = never."""
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
    """Wrap the optimizer in the rules of `config.optimizer`.

    Args:
      config: complete config.
      labels: labels of all parameters.
      make_main: start step of a group -> optimizer with the schedule shifted by it.
      clip: clipping by the norm over all trained parameters.

    Gradients of frozen parameters are zeroed before any norm. The optimizer of a group that is
    unfrozen later starts with fresh moments and the run's learning rate at that step.
    """
    starts = frozen_until(config, labels)
    # Checkpoints contain these names, which must not depend on the other groups.
    names = {
        s: "never" if math.isinf(s) else f"from_{int(s)}" for s in sorted(set(starts.values()))
    }
    by_start = {name: names[step] for name, step in starts.items()}

    def thawed(make: Callable[[int], optax.GradientTransformation]):
        """Partition by start: zero updates and untouched optimizer state before it."""
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

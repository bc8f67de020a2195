"""Optimizers and learning-rate schedules, selected by name.

They work on a flat dict {"path/of/leaf": array}, so that optimizer state is plain dicts: cheap to
pass to a jitted function and readable in a checkpoint.
"""

import jax.numpy as jnp
import optax
import optax.contrib
from ml_collections import ConfigDict

from jaxmodels.cli import choose_from
from jaxmodels.errors import UserError
from jaxmodels.tree import Flat
from train.optim.adam_atan2 import adam_atan2
from train.optim.fields import OPTIMIZERS, SCHEDULES
from train.optim.param_groups import Labels, has_rules, with_groups
from train.optim.sign_sgd import sparse_sign_sgd
from train.tasks.lengths import lengths_of, scaled


def decay_mask(params: Flat) -> dict[str, bool]:
    """Return True for leaves named `kernel`, the linear maps."""
    return {name: name.rsplit("/", 1)[-1] == "kernel" for name in params}


def make_schedule(config: ConfigDict) -> optax.Schedule:
    """Return step -> learning rate, with linear warm-up from 0 over `warmup_steps`.

    constant: the peak. cosine, linear: decay to `final_fraction` of the peak at the last step.
    wsd: constant, then linear to `final_fraction` over the last `decay_fraction` of the steps. A
    length curriculum multiplies the rate by its factors.
    """
    return scaled(_plain_schedule(config), lengths_of(config))


def _plain_schedule(config: ConfigDict) -> optax.Schedule:
    o = config.optimizer
    peak, final = o.learning_rate, o.learning_rate * o.final_fraction
    steps = max(config.steps - o.warmup_steps, 1)
    if o.schedule == "constant":
        main = optax.constant_schedule(peak)
    elif o.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, steps, alpha=o.final_fraction)
    elif o.schedule == "linear":
        main = optax.linear_schedule(peak, final, steps)
    elif o.schedule == "wsd":
        decay = max(round(config.steps * o.decay_fraction), 1)
        main = optax.linear_schedule(peak, final, decay, transition_begin=max(steps - decay, 0))
    else:
        raise UserError(
            f"config.optimizer.schedule: unknown {o.schedule!r}{choose_from(SCHEDULES)}"
        )
    if o.warmup_steps == 0:
        return main
    # The rate of the first update is peak / warmup_steps, not 0.
    warmup = optax.linear_schedule(peak / o.warmup_steps, peak, max(o.warmup_steps - 1, 1))
    return optax.join_schedules([warmup, main], [o.warmup_steps])


def make_optimizer(config: ConfigDict, labels: Labels | None = None):
    """Return clipping by global norm followed by the named optimizer, with float32 state.

    `labels` (`param_groups.parameter_labels`) are required with rules for parameter groups.
    """
    o, schedule = config.optimizer, make_schedule(config)
    signed = {name for name, label in (labels or {}).items() if label.endswith("/sign")}
    # `identity` keeps the state's structure, so that a resumed run may switch clipping on or off.
    clip = optax.clip_by_global_norm(o.clip_norm) if o.clip_norm else optax.identity()
    if not has_rules(config):
        return optax.chain(clip, _main(config, schedule, signed))
    if labels is None:
        raise ValueError("rules for parameter groups need `labels`")

    def later(start: int):
        return _main(config, lambda count: schedule(count + start), signed)

    return with_groups(config, labels, later, clip)


def _main(
    config: ConfigDict, schedule: optax.Schedule, signed: set[str]
) -> optax.GradientTransformation:
    """Return the named optimizer, with sign descent for the parameters in `signed`."""
    main, o = _named(config, schedule), config.optimizer
    if not signed:
        return main
    factor = o.sign_rate / o.learning_rate if o.learning_rate else 0.0
    by_sign = sparse_sign_sgd(lambda count: factor * schedule(count), o.sign_decay)

    def kinds(params):
        return {name: "sign" if name in signed else "main" for name in params}

    return optax.partition({"sign": by_sign, "main": main}, kinds)


def _named(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    o = config.optimizer
    decay = {"weight_decay": o.weight_decay, "mask": decay_mask}
    if o.name == "adamw":
        return optax.adamw(schedule, o.b1, o.b2, o.eps, mu_dtype=jnp.float32, **decay)
    if o.name == "adam_atan2":
        return adam_atan2(schedule, o.b1, o.b2, **decay)
    if o.name == "lion":
        return optax.lion(schedule, o.b1, o.b2, mu_dtype=jnp.float32, **decay)
    if o.name == "muon":
        return optax.contrib.muon(
            schedule,
            beta=o.b1,
            eps=o.eps,
            weight_decay=o.weight_decay,
            adam_b1=o.b1,
            adam_b2=o.b2,
            mu_dtype=jnp.float32,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=0.2,  # steps of AdamW's size: one learning rate fits both
        )
    raise UserError(f"config.optimizer.name: unknown {o.name!r}{choose_from(OPTIMIZERS)}")


def _matrices(params: Flat) -> dict[str, optax.contrib.MuonDimensionNumbers | None]:
    """Select Muon for kernels (leading axes are stacked layers), Adam for the rest."""
    last_two = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    kernels = decay_mask(params)
    # `partition` replaces other groups' parameters by placeholders without `ndim`.
    return {
        name: last_two if kernels[name] and getattr(p, "ndim", 0) >= 2 else None
        for name, p in params.items()
    }

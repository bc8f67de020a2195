"""Optimizers and learning-rate schedules, selected by name.

They work on a flat dict {"path/of/leaf": array}, so that optimizer state is plain dicts: cheap to
pass to a jitted function and readable in a checkpoint.
"""

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from ml_collections import ConfigDict

import jaxmodels
from jaxmodels.cli import choose_from
from jaxmodels.errors import UserError
from jaxmodels.tree import Flat
from train.model import build_model
from train.optim.adam_atan2 import scale_by_adam_atan2
from train.optim.fields import OPTIMIZERS, SCHEDULES, suggested_warmup
from train.optim.param_groups import Labels, has_rules, with_groups
from train.optim.sign_sgd import sparse_sign_sgd
from train.optim.weight_decay import Factors, add_weight_decay, is_kernel
from train.tasks.lengths import lengths_of, scaled


def resolve_warmup(config: ConfigDict) -> ConfigDict:
    """Set `optimizer.warmup_steps` by the model's size if there is a `warmup_factor` (G-22)."""
    factor = config.optimizer.warmup_factor
    if not factor:
        return config
    size = jaxmodels.count_parameters(jax.eval_shape(lambda: build_model(config)))
    resolved = ConfigDict(config.to_dict())
    resolved.optimizer.warmup_steps = suggested_warmup(size, config.steps, factor)
    return resolved


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


def make_optimizer(config: ConfigDict, factors: Factors, labels: Labels | None = None):
    """Return clipping by global norm followed by the named optimizer, with float32 state.

    Args:
      config: complete config.
      factors: weight decay by parameter, see `weight_decay.decay_factors`.
      labels: see `param_groups.parameter_labels`; required with rules for parameter groups.
    """
    o, schedule = config.optimizer, make_schedule(config)
    signed = {name for name, label in (labels or {}).items() if label.endswith("/sign")}
    # `identity` keeps the state's structure, so that a resumed run may switch clipping on or off.
    clip = optax.clip_by_global_norm(o.clip_norm) if o.clip_norm else optax.identity()
    if not has_rules(config):
        return optax.chain(clip, _main(config, schedule, factors, signed))
    if labels is None:
        raise ValueError("rules for parameter groups need `labels`")

    def later(start: int):
        return _main(config, lambda count: schedule(count + start), factors, signed)

    return with_groups(config, labels, later, clip)


def _main(
    config: ConfigDict, schedule: optax.Schedule, factors: Factors, signed: set[str]
) -> optax.GradientTransformation:
    """Return the named optimizer, with sign descent for the parameters in `signed`."""
    o = config.optimizer
    main = optax.chain(
        _direction(config),
        add_weight_decay(o.weight_decay, factors),
        optax.scale_by_learning_rate(schedule),
    )
    if not signed:
        return main
    factor = o.sign_rate / o.learning_rate if o.learning_rate else 0.0
    by_sign = sparse_sign_sgd(lambda count: factor * schedule(count), o.sign_decay)

    def kinds(params):
        return {name: "sign" if name in signed else "main" for name in params}

    return optax.partition({"sign": by_sign, "main": main}, kinds)


def _direction(config: ConfigDict) -> optax.GradientTransformation:
    """Return the named optimizer without weight decay, at learning rate -1."""
    o = config.optimizer
    if o.name == "adamw":
        return optax.scale_by_adam(o.b1, o.b2, o.eps, mu_dtype=jnp.float32)
    if o.name == "adam_atan2":
        return scale_by_adam_atan2(o.b1, o.b2)
    if o.name == "lion":
        return optax.scale_by_lion(o.b1, o.b2, mu_dtype=jnp.float32)
    if o.name == "muon":
        return optax.contrib.muon(
            -1.0,
            beta=o.b1,
            eps=o.eps,
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
    # `partition` replaces other groups' parameters by placeholders without `ndim`.
    return {
        name: last_two if is_kernel(name) and getattr(p, "ndim", 0) >= 2 else None
        for name, p in params.items()
    }

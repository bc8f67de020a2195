"""The training step: one pure function over the named axis "data".

    train_step(train_state, batch) -> (train_state, metrics)

`devices/placement.py` runs it under `jax.pmap` or `jax.jit(jax.shard_map(...))`. A batch holds the
rows of one device (leading axis); reductions go over "data". The loss is

    sum over terms t:  weight[t] * sum over all targets of t / number of targets of t

with target counts summed over devices and micro-batches *before* the backward pass, so that every
target weighs the same, however rows and masks are distributed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from jaxmodels.models.contract import (
    loss_names,
    loss_weights,
    main_term,
    parameters_of,
    target_counts,
    traits_of,
)
from jaxmodels.tree import flatten, unflatten
from train.optim.build import make_optimizer, make_schedule
from train.optim.param_groups import check_rules, components, parameter_labels
from train.optim.weight_decay import decay_factors

AXIS = "data"
DIVIDED = "tensor"  # mesh axis of the arrays that the trait `divided` names
PyTree = Any
Metrics = dict[str, jax.Array]
Wrap = Callable[..., Callable]


def not_wrapped(compute: Callable, *, gradients: Sequence[str]) -> Callable:
    """Return `compute` unchanged: every device holds whole parameters."""
    del gradients
    return compute


@flax.struct.dataclass
class TrainState:
    """The state that a step reads and writes.

    Attributes:
      step: int32 scalar, number of updates applied.
      model: the module; float32 master parameters, and arrays that are not trained
        (`Traits.learned`).
      opt_state: float32 Optax state over the flat parameters.
      carry: recurrent state carried across segments, leading axis = rows; () without carrying.
      ema: flat exponential moving average of the parameters, or None.
      key: uint32 (2,), key data of the run's seed; step k draws from fold_in(key, k).
      halted: int32 scalar, -1, or the index in `component_names` of the first component that became
        NaN or Inf; the state is frozen from then on.
      lr_scale: float32 scalar that multiplies the updates, set by the controller between steps;
        None without a controller.
    """

    step: jax.Array
    model: PyTree
    opt_state: PyTree
    carry: PyTree
    ema: PyTree
    key: jax.Array
    halted: jax.Array
    lr_scale: jax.Array | None = None


def init_train_state(model: PyTree, config: ConfigDict) -> TrainState:
    """Return the initial state, `config.batch_size` rows; raise UserError for invalid settings."""
    params = parameters_of(model)
    learns_locally = traits_of(model).local_update is not None
    if learns_locally and config.control.enabled and config.control.max_drops:
        raise UserError(
            "config.control.max_drops: this model learns without an optimizer, so there is no rate "
            "for the controller to lower; set it to 0"
        )
    if learns_locally and config.optimizer.ema_decay:
        raise UserError(
            "config.optimizer.ema_decay: this model learns without an optimizer; its statistics "
            "are no weights to average; set it to 0"
        )
    if learns_locally and config.optimizer.accumulate > 1:
        raise UserError(
            "config.optimizer.accumulate: this model learns without gradients that could be "
            "accumulated; set it to 1"
        )
    for name in ("groups", "freeze"):
        if learns_locally and config.optimizer.get(name):
            raise UserError(
                f"config.optimizer.{name}: this model learns without an optimizer; leave it empty, "
                "and set its own rates in config.model_config"
            )
    labels = parameter_labels(model, params)
    check_rules(config, labels)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        model=model,
        # Moments of a model without an optimizer would only take memory.
        opt_state=() if learns_locally else _optimizer(config, model, labels).init(params),
        carry=model.initial_state(config.batch_size) if config.data.carry_state else (),
        ema=jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else None,
        key=jax.random.key_data(jax.random.key(config.seed)),
        halted=jnp.full((), -1, jnp.int32),
        lr_scale=jnp.ones(()) if config.control.enabled else None,
    )


def make_train_step(
    config: ConfigDict, wrap: Wrap = not_wrapped
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """Make the training step of an experiment.

    Args:
      config: complete config.
      wrap: (compute, *, gradients: names) -> compute: maps the part that calls the model over the
        devices that split the parameters (`devices/fsdp.py`).

    Metrics are float32 scalars, equal on all devices: `loss`; each term's mean under its name;
    `weight/<term>`; `targets` (of the main term); `grad_norm` before clipping, and
    `grad_norm/<component>` for models that label their parameters; `learning_rate`; and int32
    `halted`, see `TrainState`. Models that learn locally have neither gradient norms nor a rate.
    """
    schedule = make_schedule(config)
    accumulate, ema_decay = config.optimizer.accumulate, config.optimizer.ema_decay

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        model, traits = state.model, traits_of(state.model)
        rows = jax.tree.leaves(batch)[0].shape[0]
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        key = _own_keys(key, rows, traits.draws_by_row)
        progress = state.step.astype(jnp.float32) / config.steps
        weights = loss_weights(model, progress)
        counts = jax.lax.psum(target_counts(model, batch), AXIS)
        means = {term: 1.0 / jnp.maximum(count, 1.0) for term, count in counts.items()}
        scale = {term: weight * means[term] for term, weight in weights.items()}

        if traits.local_update:  # no backpropagation; reduces over devices itself
            carry = state.carry if config.data.carry_state else model.initial_state(rows)
            new_model, new_carry, sums = traits.local_update(carry, batch, key=key, axis_name=AXIS)
            opt_state, squares = state.opt_state, {}
            # No gradients tell of a bad update before it is made.
            written = {n: ~jnp.isfinite(x).all() for n, x in flatten(new_model).items()}
            if traits.divided and config.mesh.tensor > 1:
                written = jax.lax.pmax(written, DIVIDED)
        else:
            params, carry = parameters_of(model), state.carry if config.data.carry_state else None
            compute = wrap(_gradients(model, params.keys(), accumulate), gradients=tuple(params))
            shared = (scale, progress)
            new_carry, sums, grads = compute(flatten(model), (carry, batch), shared, key)
            grads = jax.lax.psum(grads, AXIS)
            written, squares = {}, {name: jnp.sum(jnp.square(g)) for name, g in grads.items()}
            updates, opt_state = _updates(config, model, params, grads, state.opt_state)
            if state.lr_scale is not None:
                updates = {name: state.lr_scale * update for name, update in updates.items()}
            updated = optax.apply_updates(params, updates)
            new_model = unflatten(model, flatten(model) | updated)
        sums = jax.lax.psum(sums, AXIS)

        broken = jnp.stack(
            [~jnp.isfinite(sums[term]) for term in sorted(weights)]
            + [jax.lax.pmax(~jnp.isfinite(x).all(), AXIS) for x in flatten(new_carry).values()]
            + [~jnp.isfinite(squares[name]) for name in sorted(squares)]
            + [written[name] for name in sorted(written)]
        )
        first = jnp.where(broken.any(), jnp.argmax(broken), -1).astype(jnp.int32)
        halted = jnp.where(state.halted >= 0, state.halted, first)
        ema = state.ema
        if ema is not None:
            count = state.step.astype(jnp.float32)
            decay = jnp.minimum(ema_decay, (1.0 + count) / (10.0 + count))
            ema = jax.tree.map(
                lambda a, p: decay * a + (1.0 - decay) * p, ema, parameters_of(new_model)
            )
        new = TrainState(
            step=state.step + 1,
            model=new_model,
            opt_state=opt_state,
            carry=new_carry if config.data.carry_state else (),
            ema=ema,
            key=state.key,
            halted=halted,
            lr_scale=state.lr_scale,
        )
        # What is not trained is the same array in both.
        new = jax.tree.map(
            lambda a, b: a if a is b else jnp.where(halted < 0, a, b), new, state
        ).replace(halted=halted)

        metrics = {term: sums[term] * means[term] for term in sums}
        metrics |= {f"weight/{term}": weight for term, weight in weights.items()}
        metrics["loss"] = sum(scale[term] * sums[term] for term in scale)
        metrics["targets"] = counts[main_term(model)]
        if squares:
            metrics["grad_norm"] = jnp.sqrt(sum(squares.values()))
        if squares and traits.parameter_label:
            for component, names in components(parameter_labels(model, squares)).items():
                norm = jnp.sqrt(sum(squares[name] for name in names))
                metrics[f"grad_norm/{component}"] = norm
        if not traits.local_update:
            with jax.numpy_dtype_promotion("standard"):
                rate = jnp.asarray(schedule(state.step))
            metrics["learning_rate"] = rate if state.lr_scale is None else rate * state.lr_scale
        metrics = {name: value.astype(jnp.float32) for name, value in metrics.items()}
        return new, metrics | {"halted": halted}

    return train_step


def _optimizer(config: ConfigDict, model: Any, labels):
    return make_optimizer(config, decay_factors(model), labels)


def _updates(config: ConfigDict, model: Any, params, grads, opt_state):
    """Return the optimizer's updates of the parameters by name, and its next state."""
    optimizer = _optimizer(config, model, parameter_labels(model, params))
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes counts with floats
        return optimizer.update(grads, opt_state, params)


def _own_keys(key, rows: int, by_row: bool):
    """Derive this device's key or, for `Traits.draws_by_row`, a key for each of its rows."""
    device = jax.lax.axis_index(AXIS)
    if not by_row:
        return jax.random.fold_in(key, device)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, device * rows + jnp.arange(rows))


def _gradients(model, learned, accumulate):
    """Return (leaves, (carry, batch), (scale, progress), key) -> (carry, sums, gradients by name).

    It processes `rows / accumulate` rows at a time; `_own_keys` describes the key. Gradients are
    those of the leaves `learned`; carry None is the model's initial state, which may depend on
    them.
    """

    def objective(params, leaves, carry, part, shared, key):
        scale, progress = shared
        whole = unflatten(model, leaves | params)
        if carry is None:
            carry = whole.initial_state(jax.tree.leaves(part)[0].shape[0])
        carry, sums = whole.loss_sums(carry, part, key=key, progress=progress)
        return sum(scale[term] * sums[term] for term in scale), (carry, sums)

    gradient = jax.grad(objective, has_aux=True)

    def split(x):
        return x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:])

    def compute(leaves, rows, shared, key):
        params = {name: leaves[name] for name in learned}
        if accumulate == 1:
            grads, (carry, sums) = gradient(params, leaves, *rows, shared, key)
            return carry, sums, grads

        def one(total, part):
            own, carry, batch = part
            grads, aux = gradient(params, leaves, carry, batch, shared, own)
            return jax.tree.map(jnp.add, total, grads), aux

        if key.ndim:
            keys = split(key)
        else:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(accumulate))
        parts = keys, *jax.tree.map(split, rows)
        zeros = jax.tree.map(jnp.zeros_like, params)
        grads, (carry, sums) = jax.lax.scan(one, zeros, parts)
        carry = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), carry)
        return carry, jax.tree.map(lambda x: x.sum(0), sums), grads

    return compute


def component_names(state: TrainState) -> list[str]:
    """List the components that `TrainState.halted` indexes, in causal order.

    Losses precede the recurrent state, which precedes the gradients, or the arrays that a local
    update has written: the first component that is not finite is the closest to the cause.
    """
    carry = jax.eval_shape(lambda m: m.initial_state(1), state.model)
    names = [f"loss term {term}" for term in loss_names(state.model)]
    names += [f"carried state {name}".rstrip() for name in flatten(carry)]  # a bare array has none
    what = "update" if traits_of(state.model).local_update else "gradient"
    return names + [f"{what} of {name}" for name in sorted(parameters_of(state.model))]


def make_eval_step(wrap: Wrap = not_wrapped):
    """Make eval_step(model, carry, batch) -> (carry, sums, counts), summed over all devices.

    `make_train_step` describes `wrap`.
    """

    def eval_step(model, carry, batch):
        def compute(params, rows, shared, key):
            del shared, key
            carry, batch = rows
            carry, sums = unflatten(model, params).loss_sums(carry, batch, key=None)
            return carry, (sums, target_counts(model, batch)), {}

        compute = wrap(compute, gradients=())
        carry, (sums, counts), _ = compute(flatten(model), (carry, batch), (), None)
        return carry, jax.lax.psum(sums, AXIS), jax.lax.psum(counts, AXIS)

    return eval_step


def state_axes(mapped: Any, replicated: Any, model: Any = None) -> TrainState:
    """Return a prefix of a `TrainState`: `mapped` for the carry, `replicated` for the rest.

    `model` is that of the model, if it is another one.
    """
    fields = {field.name: replicated for field in dataclasses.fields(TrainState)}
    fields["carry"] = mapped
    return TrainState(**fields | ({} if model is None else {"model": model}))

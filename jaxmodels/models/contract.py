"""The contract of a model: what its author writes, and what trainer and evaluators do with it.

    state       = model.initial_state(batch_size)                    # float32 pytree, batch first
    state, out  = model(state, tokens, reset, key)                   # the forward pass
    state, sums = model.loss_sums(state, batch, key, progress)       # {term name: float32 scalar}
    model.terms                                                      # losses and metrics: `Term`

`Model` states what is required, `Traits` what is optional; docs/write_a_model.md is a tutorial
and `jaxmodels.testing.models.check_model` the test. A model is an `nnx.Module` used as a plain
pytree: its methods are pure, and its arrays are float32 parameters, all of them trained.

A batch is a dict of arrays with leading axes (B, T), rows and tokens:

    inputs, targets   int32 (B, T); targets[b, t] is the token after inputs[b, t]
    weights           float32 (B, T), 0 where there is no target
    reset             bool (B, T), True where a document starts; may be absent
    further fields    labels that a task or labeller brings; a model must do without them
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxmodels.ops import losses

Batch = Mapping[str, jax.Array]
PyTree = Any


def num_targets(batch: Batch) -> jax.Array:
    """Count the real targets of a batch: the sum of `weights`, a float32 scalar."""
    return batch["weights"].astype(jnp.float32).sum()


@dataclasses.dataclass(frozen=True)
class Term:
    """One loss or metric: a sum over targets, the number of targets, and a weight.

    The trainer minimises  sum over losses of  weight * ramp(progress) * sum / count,  with sums
    and counts reduced over all devices and micro-batches, so that every real target counts the same
    wherever its row is. It logs sum / count under `name`. A metric has no weight and no gradient.

    Attributes:
      name: key in logs and reports; must be unique within a model.
      sum: (out, batch) -> float32 scalar, the sum over the targets of `batch`; `out` is whatever
        the model's `loss_sums` passes to `term_sums`.
      count: batch -> float32 scalar, the number of targets. It sees the batch alone, because counts
        are reduced before the backward pass. Terms that share one function share its value.
      weight: of a loss, at full strength; None marks a metric.
      ramp: progress in [0, 1] -> float32 scalar that multiplies the weight; None means 1.
    """

    name: str
    sum: Callable[[Any, Batch], jax.Array]
    count: Callable[[Batch], jax.Array] = num_targets
    weight: float | None = None
    ramp: Callable[[jax.Array], jax.Array] | None = None


class Model(Protocol):
    """What every model has."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """Losses and metrics, at least one loss. The tuple depends on the config alone."""
        ...

    def initial_state(self, batch_size: int) -> PyTree:
        """Return the state before the first token: float32 leaves (batch_size, ...).

        () if nothing is carried from segment to segment. The trainer keeps it in the checkpoint.
        """
        ...

    def __call__(self, state: PyTree, tokens: jax.Array, *args: Any, **kwargs: Any) -> tuple:
        """Run the forward pass: tokens int32 (B, T) -> (state after the last token, out).

        A left-to-right language model takes `(state, tokens, reset=None, key=None)` and returns an
        `out` with `logits` float32 (B, T, vocab). Where `reset` is True, the state is the initial
        one before that token is read. `key` turns dropout on. Other systems document their own
        call; evaluators only use it on models with the trait `step`.
        """
        ...

    def loss_sums(
        self,
        state: PyTree,
        batch: Batch,
        key: jax.Array | None = None,
        progress: jax.Array | None = None,
    ) -> tuple[PyTree, dict[str, jax.Array]]:
        """Return the state after the batch and the sum of each term: the training step's objective.

        Mostly two lines: the forward pass, then `term_sums(self.terms, out, batch)`. The trainer
        differentiates it with respect to the parameters.

        Args:
          state: `initial_state`, or the state after the previous segment of the same rows.
          batch: one device's rows, or a micro-batch of them.
          key: PRNG key of this step and device (see `Traits.draws_by_row`); None in evaluation,
            which must be deterministic.
          progress: float32 scalar, share of the run's steps done; None in evaluation.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Traits:
    """Optional abilities of a model, read from its attributes of the same names by `traits_of`.

    Attributes:
      step: (state, token int32 (B,)) -> (state, out with logits (B, vocab)): streaming, equal to
        the call token by token. Sampling, diagnostics and `eval.stream` need it.
      trace: tokens int32 (T,) -> {name: array}, each drawn in the report: leading axis T, or T - 1
        for `log2_loss` (bits paid for each next token).
      intermediates: (state, tokens int32 (B, T), reset=None) -> (state, a dict of arrays for each
        layer), see `models/observe.py`. `config.control.watch` and diagnostics need it.
      kinds: names of the layers' kinds, in order of depth, of a model with `layer` and
        `layer_state` (`models/segments.py`); diagnostics then tell components apart.
      solve: (tokens int32 (B, T), *, adaptive, max_steps, identifiers) -> (logits, ACT steps, q): a
        model that answers questions instead of continuing text.
      check_data: (data config, seq_len, classes) -> None, raises UserError if the experiment's data
        do not fit. Called before training starts and before evaluation on other text; `classes`
        maps each label field of the corpus to its number of classes.
      parameter_label: leaf name -> "component/role", for per-group learning rates, clipping and
        freezing (`train/optim/param_groups.py`) and gradient norms by component in the log.
      local_update: (state, batch, *, key, axis_name) -> (model, state, sums): a model that learns
        without backpropagation. It replaces gradient and optimizer, and reduces its own update over
        the named axis of devices; `sums` are those of `loss_sums`, of this device alone.
      main_term: name of the loss by which validation ranks checkpoints, lower is better.
      draws_by_row: `loss_sums` gets a key for each row, (B,), the same for a row of the global
        batch wherever it is, so that the curve does not depend on the number of devices.
      replicated_only: the model runs kernels that XLA cannot partition; the trainer refuses a
        "tensor" mesh axis. Data parallelism and FSDP work.
    """

    step: Callable | None = None
    trace: Callable | None = None
    intermediates: Callable | None = None
    kinds: tuple[str, ...] | None = None
    solve: Callable | None = None
    check_data: Callable | None = None
    parameter_label: Callable[[str], str] | None = None
    local_update: Callable | None = None
    main_term: str = "next_token"
    draws_by_row: bool = False
    replicated_only: bool = False


def traits_of(model: Any) -> Traits:
    """Read the traits of a model; what it does not define has the default of `Traits`."""
    fields = dataclasses.fields(Traits)
    return Traits(**{field.name: getattr(model, field.name, field.default) for field in fields})


# What follows is derived from `terms`: the trainer and evaluators call it, authors use `term_sums`.


def term_sums(terms: tuple[Term, ...], out: Any, batch: Batch) -> dict[str, jax.Array]:
    """Evaluate the sum of every term: {name: float32 scalar}."""
    return {term.name: term.sum(out, batch) for term in terms}


def target_counts(model: Model, batch: Batch) -> dict[str, jax.Array]:
    """Count the targets of every term: {name: float32 scalar}, the keys of `loss_sums`."""
    terms = model.terms
    values = _shared((term.count for term in terms), batch)
    return {term.name: values[term.count] for term in terms}


def loss_weights(model: Model, progress: jax.Array) -> dict[str, jax.Array]:
    """Weight every loss at a progress in [0, 1]: {name: float32 scalar}, without metrics."""
    terms = [term for term in model.terms if term.weight is not None]
    values = _shared((term.ramp for term in terms if term.ramp), progress)
    return {
        term.name: term.weight * values[term.ramp] if term.ramp else jnp.float32(term.weight)
        for term in terms
    }


def loss_names(model: Model) -> list[str]:
    """List the names of the losses, sorted."""
    return sorted(term.name for term in model.terms if term.weight is not None)


def main_term(model: Model) -> str:
    """Name the loss that validation ranks by: the trait `main_term`, else the first by name."""
    names, named = loss_names(model), traits_of(model).main_term
    return named if named in names else names[0]


def _shared(functions, argument) -> dict[Callable, jax.Array]:
    """Evaluate each function once, in order of appearance."""
    return {function: function(argument) for function in dict.fromkeys(functions)}


# Terms that most models have.


def token_terms() -> tuple[Term, Term]:
    """Return next-token cross-entropy, in nats, and its accuracy, of an `out` with `logits`."""

    def loss(out, batch):
        return losses.cross_entropy_sum(out.logits, batch["targets"], _weights(batch))

    def right(out, batch):
        return losses.correct_sum(out.logits, batch["targets"], _weights(batch))

    return Term("next_token", loss, weight=1.0), Term("accuracy", right)


def label_terms(
    name: str,
    labels: Callable[[Batch], jax.Array | None],
    weight: float,
    ramp: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[Term, Term]:
    """Return `name`, the cross-entropy of a classification head, and `name`_accuracy.

    The head's logits are `out.label_logits[name]`, float (..., classes).

    Args:
      name: of the loss.
      labels: batch -> int (...), -1 where there is no target; None if the batch has no such field:
        then sums and counts are 0.
      weight, ramp: of the loss, see `Term`.
    """

    def summed(function):
        def sum_over_labels(out, batch):
            if (known := labels(batch)) is None:
                return jnp.float32(0.0)
            return function(out.label_logits[name], known, (known >= 0).astype(jnp.float32))

        return sum_over_labels

    count = functools.partial(_num_labels, labels)
    return (
        Term(name, summed(losses.cross_entropy_sum), count, weight, ramp),
        Term(f"{name}_accuracy", summed(losses.correct_sum), count),
    )


def _num_labels(labels, batch):
    known = labels(batch)
    return jnp.float32(0.0 if known is None else jnp.sum(known >= 0, dtype=jnp.float32))


def weighted_term(name: str, values: Callable[[Any], jax.Array], **fields) -> Term:
    """Return a term whose sum weighs values(out), float (B, T), by the weights of the tokens."""
    return Term(name, lambda out, batch: jnp.sum(_weights(batch) * values(out)), **fields)


def _weights(batch):
    return batch["weights"].astype(jnp.float32)

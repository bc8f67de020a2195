"""The model contract: the interface between a model, the trainer and the evaluators.

    state       = model.initial_state(batch_size)                    # float32 pytree, batch first
    state, out  = model(state, tokens, reset, key)                   # the forward pass
    state, sums = model.loss_sums(state, batch, key, progress)       # {term name: float32 scalar}
    model.terms                                                      # losses and metrics: `Term`

Under `arguments.checked_tokens`, the forward pass of a left-to-right model also takes `hold`, bool
(B, T), or `lengths`, int (B,): rows of different lengths, see `jaxmodels/ragged.py`.

`Model` lists the required methods, `Traits` the optional ones; docs/write_a_model.md is a tutorial
and `jaxmodels.testing.models.check_model` the test. A model is an `nnx.Module` used as a plain
pytree: its methods are pure, and its arrays are float32 parameters, all of them trained (but see
`Traits.learned` and `Traits.stored_dtype`).

A batch is a dict of arrays with leading axes (B, T), rows and tokens:

    inputs, targets   int32 (B, T); targets[b, t] is the token after inputs[b, t]
    weights           float32 (B, T), 0 where there is no target
    reset             bool (B, T), True where a document starts; optional
    further fields    labels from a task or labeller; a model must work without them
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxmodels.ops import losses
from jaxmodels.tree import Flat, flatten

Batch = Mapping[str, jax.Array]
PyTree = Any


def num_targets(batch: Batch) -> jax.Array:
    """Return the number of real targets of a batch, the sum of `weights`: float32 scalar."""
    return batch["weights"].astype(jnp.float32).sum()


@dataclasses.dataclass(frozen=True)
class Term:
    """A loss or metric: a sum over targets, the number of targets, and a weight.

    The trainer minimizes  sum over losses of  weight * ramp(progress) * sum / count,  with sums
    and counts reduced over all devices and micro-batches, so that all real targets weigh the same.
    It logs sum / count under `name`. A metric has no weight and no gradient.

    Attributes:
      name: key in logs and reports; unique within a model.
      sum: (out, batch) -> float32 scalar, the sum over the targets of `batch`; `out` is the value
        that the model's `loss_sums` passes to `term_sums`.
      count: batch -> float32 scalar, the number of targets. It gets only the batch, because counts
        are reduced before the backward pass. It is evaluated once per distinct function.
      weight: loss weight at full strength; None marks a metric.
      ramp: progress in [0, 1] -> float32 scalar that multiplies the weight; None means 1.
    """

    name: str
    sum: Callable[[Any, Batch], jax.Array]
    count: Callable[[Batch], jax.Array] = num_targets
    weight: float | None = None
    ramp: Callable[[jax.Array], jax.Array] | None = None


class Model(Protocol):
    """Required methods of a model."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """Losses and metrics, at least one loss. The tuple depends on the config alone."""
        ...

    def initial_state(self, batch_size: int) -> PyTree:
        """Return the state before the first token: float32 leaves (batch_size, ...), or ().

        It is carried from segment to segment and stored in the checkpoint.
        """
        ...

    def __call__(self, state: PyTree, tokens: jax.Array, *args: Any, **kwargs: Any) -> tuple:
        """Run the forward pass: tokens int32 (B, T) -> (state after the last token, out).

        A left-to-right language model takes `(state, tokens, reset=None, key=None)` and returns an
        `out` with `logits` float32 (B, T, vocab). Where `reset` is True, the state is set to the
        initial one before that token is read. `key` enables dropout. Other models document their
        own signature; evaluators only call models with the trait `step`.
        """
        ...

    def loss_sums(
        self,
        state: PyTree,
        batch: Batch,
        key: jax.Array | None = None,
        progress: jax.Array | None = None,
    ) -> tuple[PyTree, dict[str, jax.Array]]:
        """Return the state after the batch and the sum of each term.

        Usually the forward pass, then `term_sums(self.terms, out, batch)`. The trainer
        differentiates it with respect to the parameters.

        Args:
          state: `initial_state`, or the state after the previous segment of the same rows.
          batch: one device's rows, or a micro-batch of them.
          key: PRNG key of this step and device (see `Traits.draws_by_row`); None in evaluation,
            which must be deterministic.
          progress: float32 scalar, fraction of the run's steps done; None in evaluation.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Traits:
    """Optional capabilities of a model, read by `traits_of` from attributes of the same names.

    Attributes:
      step: (state, token int32 (B,)) -> (state, out with logits (B, vocab)): streaming, equal to
        `__call__` token by token. Required by sampling, diagnostics and `eval.stream`.
      trace: tokens int32 (T,) -> {name: array}, each plotted in the report: leading axis T, or
        T - 1 for `log2_loss` (bits per next token).
      intermediates: (state, tokens int32 (B, T), reset=None) -> (state, one dict of arrays per
        layer), see `models/observe.py`. Required by `config.control.watch` and diagnostics.
      kinds: kind of each layer, in order of depth, of a model with `layer` and `layer_state`
        (`models/segments.py`); lets diagnostics report by component.
      solve: (tokens int32 (B, T), *, adaptive, max_steps, identifiers, confidence) -> (logits, ACT
        steps, q): a
        model that answers questions instead of continuing text.
      check_data: (data config, seq_len, classes) -> None; raises UserError if the experiment's data
        do not fit. Called before training starts and before evaluation on other text; `classes`
        maps each label field of the corpus to its number of classes.
      parameter_label: leaf name -> "component/role", for per-group learning rates, clipping and
        freezing (`train/optim/param_groups.py`) and gradient norms by component in the log.
      learned: leaf name -> whether training changes that array; None = all. The rest has neither
        gradients nor optimizer state and is not in checkpoints (`jaxmodels/tuning`).
      sums_by_token: the sums of `loss_sums`, and the outputs of `__call__`, over some tokens are
        those over the first of them, then over the rest.
      local_update: (state, batch, *, key, axis_name) -> (model, state, sums): a learning rule that
        replaces gradient and optimizer, and reduces its own update over the named device axis;
        `sums` are those of `loss_sums` on this device.
      divided: leaf name -> whether the mesh axis "tensor" splits the leading axis of that array. A
        model that learns by local updates and has this trait finds its part of such arrays, and
        reduces over "tensor" itself where it computes from them.
      stored_dtype: dtype of a model's floating-point arrays that learns by local updates in a
        narrower one than float32.
      projection: (settings, (state, batch) -> (state, float (B, T, d))): what a model makes of text
        before anything that it learns, and the JSON-like settings that determine it. Such a model
        takes that as the batch field `features` instead, in float16 (`train/tasks/features.py`).
      label_fields: pairs (loss, batch field) of the losses that read labels. Training is refused if
        the experiment's data have no such field (`train/tasks/task.py`).
      main_term: name of the loss by which validation ranks checkpoints; lower is better.
      draws_by_row: `loss_sums` gets one key per row, (B,), which depends on the row's index in the
        global batch, so that training does not depend on the number of devices.
      replicated_only: the model runs kernels that XLA cannot partition; the trainer rejects a
        "tensor" mesh axis. Data parallelism and FSDP work.
    """

    step: Callable | None = None
    trace: Callable | None = None
    intermediates: Callable | None = None
    kinds: tuple[str, ...] | None = None
    solve: Callable | None = None
    check_data: Callable | None = None
    parameter_label: Callable[[str], str] | None = None
    learned: Callable[[str], bool] | None = None
    sums_by_token: bool = True
    local_update: Callable | None = None
    divided: Callable[[str], bool] | None = None
    stored_dtype: str = "float32"
    projection: tuple[dict[str, Any], Callable] | None = None
    label_fields: tuple[tuple[str, str], ...] = ()
    main_term: str = "next_token"
    draws_by_row: bool = False
    replicated_only: bool = False


def traits_of(model: Any) -> Traits:
    """Read the traits of a model; missing attributes have the defaults of `Traits`."""
    fields = dataclasses.fields(Traits)
    return Traits(**{field.name: getattr(model, field.name, field.default) for field in fields})


def parameters_of(model: Any) -> Flat:
    """Return the arrays that training changes, by name: all, or those of the trait `learned`."""
    learned, leaves = traits_of(model).learned, flatten(model)
    return leaves if learned is None else {n: x for n, x in leaves.items() if learned(n)}


def term_sums(terms: tuple[Term, ...], out: Any, batch: Batch) -> dict[str, jax.Array]:
    """Return the sum of every term: {name: float32 scalar}."""
    return {term.name: term.sum(out, batch) for term in terms}


def target_counts(model: Model, batch: Batch) -> dict[str, jax.Array]:
    """Return the target count of every term: {name: float32 scalar}."""
    terms = model.terms
    values = _shared((term.count for term in terms), batch)
    return {term.name: values[term.count] for term in terms}


def loss_weights(model: Model, progress: jax.Array) -> dict[str, jax.Array]:
    """Return the weight of every loss at a progress in [0, 1]: {name: float32 scalar}."""
    terms = [term for term in model.terms if term.weight is not None]
    values = _shared((term.ramp for term in terms if term.ramp), progress)
    return {
        term.name: term.weight * values[term.ramp] if term.ramp else jnp.float32(term.weight)
        for term in terms
    }


def loss_names(model: Model) -> list[str]:
    """Return the names of the losses, sorted."""
    return sorted(term.name for term in model.terms if term.weight is not None)


def main_term(model: Model) -> str:
    """Return the loss that validation ranks by: the trait `main_term`, else the first by name."""
    names, main = loss_names(model), traits_of(model).main_term
    return main if main in names else names[0]


def _shared(functions, argument) -> dict[Callable, jax.Array]:
    """Evaluate each distinct function once: {function: value}."""
    return {function: function(argument) for function in dict.fromkeys(functions)}


def token_terms(importance: float = 0.0) -> tuple[Term, ...]:
    """Return next-token cross-entropy in nats and accuracy, computed from `out.logits`.

    With an exponent `importance`, the loss is `ops.losses.important_sum` under that name, and the
    plain cross-entropy, by which validation ranks, weighs 0.
    """

    def loss(out, batch):
        return losses.cross_entropy_sum(out.logits, batch["targets"], _weights(batch))

    def correct(out, batch):
        return losses.correct_sum(out.logits, batch["targets"], _weights(batch))

    def important(out, batch):
        weights = _weights(batch)
        return losses.important_sum(out.logits, batch["targets"], weights, importance)

    terms = Term("next_token", loss, weight=0.0 if importance else 1.0), Term("accuracy", correct)
    return (*terms, Term("importance", important, weight=1.0)) if importance else terms


def label_terms(
    name: str,
    labels: Callable[[Batch], jax.Array | None],
    weight: float,
    ramp: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[Term, Term]:
    """Return the cross-entropy `name` and the metric `name`_accuracy of a classification head.

    Args:
      name: loss name; the head's logits are `out.label_logits[name]`, float (..., classes).
      labels: batch -> int (...), -1 where there is no target; None, with sums and counts 0, if the
        batch has no such field.
      weight, ramp: see `Term`.
    """

    def summed(function):
        def sum_over_labels(out, batch):
            if (targets := labels(batch)) is None:
                return jnp.float32(0.0)
            return function(out.label_logits[name], targets, (targets >= 0).astype(jnp.float32))

        return sum_over_labels

    count = functools.partial(_num_labels, labels)
    return (
        Term(name, summed(losses.cross_entropy_sum), count, weight, ramp),
        Term(f"{name}_accuracy", summed(losses.correct_sum), count),
    )


def _num_labels(labels, batch):
    targets = labels(batch)
    return jnp.float32(0.0 if targets is None else jnp.sum(targets >= 0, dtype=jnp.float32))


def weighted_term(name: str, values: Callable[[Any], jax.Array], **fields) -> Term:
    """Return a term that sums values(out), float (B, T), weighted by the batch's `weights`."""
    return Term(name, lambda out, batch: jnp.sum(_weights(batch) * values(out)), **fields)


def _weights(batch):
    return batch["weights"].astype(jnp.float32)

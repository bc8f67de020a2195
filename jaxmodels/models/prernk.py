"""PRERNK: an embedding, the unified cell over time, a linear head, and five losses.

Source: `zabwie/RNK` docs/unified_training_plan.md, as interpreted in docs/systems.md. The original
code has only the next-token loss; the other four (P-12 to P-15) follow its plan.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.arguments import checked_batch, checked_tokens
from jaxmodels.cells.base import one_of
from jaxmodels.cells.layers import Embedding, Linear
from jaxmodels.cells.unified import UnifiedCell, UnifiedConfig, UnifiedState
from jaxmodels.errors import UserError
from jaxmodels.models.contract import Term, label_terms, term_sums, token_terms, weighted_term
from jaxmodels.models.prernk_terms import (
    bounds_terms,
    exact_term,
    norm,
    num_values,
    participation,
    ramp,
    relation_labels,
    sparsity,
    squared_error,
    targets_in,
)
from jaxmodels.ops import losses

CHOICES = {
    "objective": ("next_token", "regression"),
    "symbolic": ("none", "cross_entropy", "contrastive", "bounds"),
    "sparsity": ("none", "l1", "entropy"),
    "fidelity": ("none", "probe", "loss"),
    "ramp": ("constant", "linear", "sigmoid"),
}


@dataclasses.dataclass(frozen=True)
class PRERNKConfig(UnifiedConfig):
    """Configuration of PRERNK: sizes, losses and their weights; see `UnifiedConfig` for the cell.

    Attributes:
      objective: "next_token" (cross-entropy) or "regression" (mean squared error of values that are
        predicted from h); P-11.
      regression_targets: batch field of the values, float (B, T, regression_size); or an integer
        label (B, T), such as "level_targets", -1 = none, with regression_size 1.
      symbolic: loss on relation labels, `batch["relation_labels"]` int (B, T, S, K), -1 = none: the
        class of each slot and role is decoded from its vector in the relation tensor; P-12.
        "bounds" decodes lower and upper bounds of truth, which must not contradict each other in
        Lukasiewicz logic (TensorLNN).
      fidelity: per-role decoders of the same labels; P-15. "probe" stops their gradient before the
        relations, so that their accuracy is a measurement; "loss" does not.
      relation_vocab: number of label classes; needed by symbolic and fidelity.
      relations_every: labels are used after tokens n, 2n, ... of a segment (each costs a relation
        tensor).
      sparsity: penalty on abstractions, mean |a| or the entropy of softmax |a|; P-13.
      abstraction_heads: levels l with a classifier on a_l; P-14.
      head_targets: batch field of their labels, int (B, T), -1 = none, such as "step_targets" of
        GSM8K and CoT, or "level_targets" of HRDoc.
      abstraction_vocab: number of classes of those heads.
      *_weight: weight at full strength. Symbolic and sparsity follow the ramp: 0 before ramp_start
        (a fraction of the steps), 1 at the end; "constant" is 1 throughout; P-25.
    """

    width: int = 128
    hidden_size: int = 256
    relation_size: int = 64
    abstraction_sizes: tuple[int, ...] = (256, 128, 64)
    vocab_size: int = 256
    objective: str = "next_token"
    regression_size: int = 1
    regression_targets: str = "values"
    symbolic: str = "none"
    fidelity: str = "none"
    relation_vocab: int = 0
    relations_every: int = 16
    sparsity: str = "l1"
    abstraction_heads: tuple[int, ...] = ()
    abstraction_vocab: int = 0
    head_targets: str = "step_targets"
    symbolic_weight: float = 0.1
    sparsity_weight: float = 0.001
    heads_weight: float = 0.1
    fidelity_weight: float = 0.1
    ramp: str = "linear"
    ramp_start: float = 0.6

    def __post_init__(self):
        object.__setattr__(self, "abstraction_heads", tuple(self.abstraction_heads))
        for name, options in CHOICES.items():
            one_of(self, name, options)
        super().__post_init__()
        if self.vocab_size < 2:
            raise UserError(f"vocab_size must be at least 2, got {self.vocab_size}")
        if self.labelled and self.relation_vocab < 2:
            raise UserError("symbolic and fidelity losses need relation_vocab >= 2")
        if self.relations_every < 1:
            raise UserError(f"relations_every must be positive, got {self.relations_every}")
        levels = len(self.abstraction_sizes)
        if any(not 0 <= level < levels for level in self.abstraction_heads):
            raise UserError(
                f"abstraction_heads must be levels 0..{levels - 1}, got {self.abstraction_heads}"
            )
        if self.abstraction_heads and self.abstraction_vocab < 2:
            raise UserError("abstraction_heads need abstraction_vocab >= 2")
        if self.regression_targets != "values" and self.regression_size != 1:
            raise UserError(
                f"regression_targets={self.regression_targets!r} are single numbers; set "
                f"regression_size to 1, got {self.regression_size}"
            )
        if not 0.0 <= self.ramp_start < 1.0:
            raise UserError(f"ramp_start must be in [0, 1), got {self.ramp_start}")

    @property
    def labelled(self) -> bool:
        """True if any loss reads relation labels."""
        return self.symbolic != "none" or self.fidelity != "none"


PRESETS = {
    # Defaults and defects of the original: diagonal readout, second softmax, dead abstractions.
    "as_written": {
        "vocab_size": 4096,
        "gating": "diagonal",
        "double_softmax": True,
        "topdown": False,
        "exact_gelu": True,
        "dropout": 0.1,
        "input_gain": 1.0,
        "sparsity": "none",
    },
}


@struct.dataclass
class PRERNKOutput:
    """Predictions and intermediates of the cell; leading axes (B, T), in `step` (B,).

    Attributes:
      logits: float32 (B, T, vocab).
      values: (B, T, regression_size) with objective="regression", else None.
      abstractions: tuple of (B, T, A_l).
      causal_mask: (B, T, S, S).
      relations: (B, T // relations_every, S, K, R) with labelled losses, else None, also with
        `hold`; in `step` the current tensor (B, S, K, R).
      label_logits: only in `loss_sums`, {loss: logits of its labels, (..., classes)}.
    """

    logits: jax.Array
    values: jax.Array | None
    abstractions: tuple[jax.Array, ...]
    causal_mask: jax.Array
    relations: jax.Array | None
    label_logits: dict[str, jax.Array] | None = None


class PRERNK(nnx.Module):
    """Language model around the unified cell."""

    def __init__(self, config: PRERNKConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.embed = Embedding(c.vocab_size, c.width, rngs=rngs)
        self.cell = UnifiedCell(c, rngs=rngs)
        self.head = Linear(c.hidden_size, c.vocab_size, rngs=rngs)
        if c.objective == "regression":
            self.values = Linear(c.hidden_size, c.regression_size, rngs=rngs)
        if c.symbolic == "cross_entropy":
            self.symbols = Linear(c.relation_size, c.relation_vocab, rngs=rngs)
        elif c.symbolic == "bounds":
            self.symbols = Linear(c.relation_size, 2 * c.relation_vocab, rngs=rngs)
        elif c.symbolic == "contrastive":
            self.symbols = Embedding(c.relation_vocab, c.relation_size, rngs=rngs)
        if c.fidelity != "none":
            decoders = [
                Linear(c.relation_size, c.relation_vocab, rngs=rngs) for _ in range(c.role_slots)
            ]
            self.decoders = nnx.List(decoders)
        sizes = [c.abstraction_sizes[level] for level in c.abstraction_heads]
        self.heads = nnx.List([Linear(size, c.abstraction_vocab, rngs=rngs) for size in sizes])

    def initial_state(self, batch_size: int, device=None) -> UnifiedState:
        """Return the cell's initial state."""
        return self.cell.initial_state(batch_size, device)

    @property
    def sums_by_token(self) -> bool:
        """See `Traits`: relation labels are read at every n-th token of a row."""
        return not self.config.labelled

    @checked_tokens
    def __call__(self, state, tokens, reset=None, key=None, lengths=None):
        """Read tokens int (B, T) -> (state, PRERNKOutput); `key` enables dropout."""
        c = self.config
        xs = self.embed(tokens)
        # Token n of a ragged row is in another place.
        every = c.relations_every if c.labelled and lengths is None else 0
        options = {"relations_every": every, "lengths": lengths}
        state, seen = self.cell.unroll(state, xs, reset, key, **options)
        return state, self._output(seen.h, seen.abstractions, seen.causal_mask, seen.relations)

    @checked_tokens
    def step(self, state, token):
        """Read one token int (B,) -> (state, PRERNKOutput without a time axis)."""
        state, h = self.cell.step(state, self.embed(token))
        return state, self._output(h, state.abstractions, state.causal_mask, state.relations)

    def _output(self, h, abstractions, mask, relations):
        regression = self.config.objective == "regression"
        values = self.values(h, self.config.dtype) if regression else None
        logits = self.head(h, self.config.dtype)
        return PRERNKOutput(logits, values, abstractions, mask, relations)

    def trace(self, tokens: jax.Array) -> dict[str, jax.Array]:
        """Return arrays to plot for tokens int (T,).

        They are relations (T, S, K, R), causal_mask (T, S, S), abstraction_norms (T, levels) and
        log2_loss (T - 1,), bits per next token; with `debug_mode`, also h_mid (T, D), context
        (T, R) and mask_logits (T, S, S), what each of the three blocks hands to the next (P-10).
        """
        tokens = jnp.asarray(tokens)[None]
        state, blocks = self.initial_state(1), {}
        if self.config.debug_mode:
            _, seen, inner = self.cell.debug(state, self.embed(tokens))
            blocks = {name: inner[name][0] for name in ("h_mid", "context", "mask_logits")}
        else:
            _, seen = self.cell.unroll(state, self.embed(tokens), relations_every=1)
        logits = self.head(seen.h, self.config.dtype)[0, :-1]
        norms = [jnp.linalg.norm(a[0], axis=-1) for a in seen.abstractions]
        return blocks | {
            "relations": seen.relations[0],
            "causal_mask": seen.causal_mask[0],
            "abstraction_norms": jnp.stack(norms, -1),
            "log2_loss": losses.token_nll(logits, tokens[0, 1:]) / jnp.log(2.0),
        }

    @property
    def main_term(self) -> str:
        """See `Traits`."""
        return self.config.objective

    @property
    def label_fields(self) -> tuple[tuple[str, str], ...]:
        """See `Traits`."""
        c = self.config
        fields = [(f"head_{level}", c.head_targets) for level in c.abstraction_heads]
        fields += [("symbolic", "relation_labels")] if c.symbolic != "none" else []
        fields += [("fidelity", "relation_labels")] if c.fidelity != "none" else []
        if c.objective == "regression":
            fields.append(("regression", c.regression_targets))
        return tuple(fields)

    @property
    def terms(self) -> tuple[Term, ...]:
        """Main loss, sparsity and label losses with their metrics.

        They read the batch fields of `label_fields`, all optional but the regression's.
        """
        c = self.config
        late = functools.partial(ramp, kind=c.ramp, start=c.ramp_start)  # P-25
        if c.objective == "next_token":
            terms = [*token_terms()]
        else:
            error = functools.partial(squared_error, c.regression_targets)
            number = functools.partial(num_values, c.regression_targets)
            terms = [Term("regression", error, number, weight=1.0)]
        for level in range(len(c.abstraction_sizes)):
            size, share = functools.partial(norm, level), functools.partial(participation, level)
            terms.append(weighted_term(f"abstraction_norm_{level}", size))
            terms.append(weighted_term(f"participation_{level}", share))
        if c.sparsity != "none":
            penalty = functools.partial(sparsity, c.sparsity)
            terms.append(weighted_term("sparsity", penalty, weight=c.sparsity_weight, ramp=late))
        labels = functools.partial(relation_labels, c.relations_every)
        if c.symbolic != "none":
            of = bounds_terms if c.symbolic == "bounds" else label_terms
            terms += of("symbolic", labels, c.symbolic_weight, late)
        if c.fidelity != "none":
            terms += label_terms("fidelity", labels, c.fidelity_weight)
            terms.append(exact_term("fidelity", labels))
        for level in c.abstraction_heads:
            targets = functools.partial(targets_in, c.head_targets)
            terms += label_terms(f"head_{level}", targets, c.heads_weight)
        return tuple(terms)

    @checked_batch
    def loss_sums(self, state, batch, key=None, progress=None):
        """See `Model.loss_sums`; `key` enables dropout."""
        del progress
        c = self.config
        if c.objective == "regression" and c.regression_targets not in batch:
            raise UserError(f"objective='regression' needs batch[{c.regression_targets!r}]")
        state, out = self(state, batch["inputs"], batch.get("reset"), key)
        out = out.replace(label_logits=self._label_logits(out, batch))
        return state, term_sums(self.terms, out, batch)

    def check_data(self, data, seq_len: int, classes: Mapping[str, int] | None = None) -> None:
        """Raise UserError, naming the field, if an experiment's labels do not fit the model.

        Args:
          data: the experiment's `config.data`.
          seq_len: segment length.
          classes: number of classes of each label field of the corpus.
        """
        c, classes = self.config, classes or {}
        steps = classes.get(c.head_targets, 0)
        if c.abstraction_heads and steps > c.abstraction_vocab:
            raise UserError(
                f"model_config.abstraction_vocab={c.abstraction_vocab}: the {c.head_targets} of "
                f"this text have {steps} classes; set it to {steps} or more"
            )
        if not c.labelled:
            return
        relations = classes.get("relation_labels", 0)
        if relations > c.relation_vocab:
            raise UserError(
                f"model_config.relation_vocab={c.relation_vocab}: the relation_labels of this text "
                f"have {relations} classes; set it to {relations} or more"
            )
        if c.relations_every > seq_len:
            field = f"model_config.relations_every={c.relations_every}"
            raise UserError(f"{field} must not exceed seq_len={seq_len}")
        if data.labels != "relations":
            return
        for field, size in (("label_slots", c.symbol_slots), ("label_roles", c.role_slots)):
            if data[field] != size:
                raise UserError(
                    f"config.data.{field} must be the model's {size}, got {data[field]}"
                )
        # Those of a synthetic task are its own, checked above.
        if data.format != "synthetic" and data.label_classes > c.relation_vocab:
            raise UserError(
                f"config.data.label_classes={data.label_classes} must not exceed "
                f"model_config.relation_vocab={c.relation_vocab}"
            )

    def _label_logits(self, out, batch):
        """Return {loss: logits} of the losses whose labels the batch has."""
        c, logits = self.config, {}
        if c.labelled and "relation_labels" in batch:
            if c.symbolic == "cross_entropy":
                logits["symbolic"] = self.symbols(out.relations, c.dtype)
            elif c.symbolic == "bounds":
                found = self.symbols(out.relations, c.dtype)
                logits["symbolic"] = found.reshape(*found.shape[:-1], c.relation_vocab, 2)
            elif c.symbolic == "contrastive":
                table = self.symbols.table[...]
                logits["symbolic"] = losses.similarities(out.relations, table, 0.1)
            if c.fidelity != "none":
                stop = jax.lax.stop_gradient if c.fidelity == "probe" else lambda x: x
                relations = stop(out.relations)
                roles = [d(relations[..., k, :], c.dtype) for k, d in enumerate(self.decoders)]
                logits["fidelity"] = jnp.stack(roles, -2)
        if c.head_targets in batch:
            for head, level in zip(self.heads, c.abstraction_heads, strict=True):
                logits[f"head_{level}"] = head(out.abstractions[level], c.dtype)
        return logits

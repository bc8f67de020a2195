"""HRLM: hierarchical reasoning over text and grids with adaptive computation time.

One call is one ACT step of `cells/hrm.py`. The carry (z_H, z_L) is detached between steps, so each
step is a training step ("deep supervision"). A Q-head, trained on whether the answer is correct,
decides when to halt: `models/hrlm/act.py`. Sources: HRM (arXiv 2506.21734, sapientinc/HRM),
HRM-Text (arXiv 2605.20613), HRLM.md of GS-JAL/HRM.

The mode determines the row layout (`data/pairs/layout.py`) and the attention mask:

    grid        a puzzle; labels at every position, bidirectional attention
    nar         [INPUT][SEP][blank ...]; labels on the blanks, bidirectional attention
    prefix_ar   [INPUT][SEP][OUTPUT]; next-token labels on OUTPUT; attention is bidirectional up to
                SEP and causal after it
    as_written  [INPUT][EOS][SEP][OUTPUT][EOS], labels on OUTPUT at the same positions: the answer
                is in the input, and the model learns to copy it. Kept to demonstrate that.

Shapes: B batch, T positions, C width, V vocabulary, R front positions (puzzle, registers).
"""

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.arguments import checked_batch, checked_rows
from jaxmodels.cells.hrm import HRM, HRMNet, HRMState
from jaxmodels.cells.layers import Embedding, Linear, rows_of, truncated_normal
from jaxmodels.data.tokenizers.special import PAD, SEP
from jaxmodels.errors import UserError
from jaxmodels.models.contract import Term, term_sums
from jaxmodels.models.hrlm import act
from jaxmodels.models.hrlm.config import HRLMConfig
from jaxmodels.ops.masked_attention import Visibility


@struct.dataclass
class HRLMState:
    """Carry between ACT steps; a model without halting has () instead.

    Attributes:
      thoughts: z_H and z_L, (B, R + T, C) float32.
      steps: (B,) float32, ACT steps spent on the current sample.
      halted: (B,) float32, 1 where the next step starts a new sample.
      inputs, targets, weights, identifiers: the current sample; int32, int32 and float32 (B, T),
        int32 (B,).
    """

    thoughts: HRMState
    steps: jax.Array
    halted: jax.Array
    inputs: jax.Array
    targets: jax.Array
    weights: jax.Array
    identifiers: jax.Array


@struct.dataclass
class HRLMOutput:
    """Output of one ACT step.

    Attributes:
      logits: float32 (B, T, V).
      q_halt, q_continue: float32 (B,), logits of the Q-head.
    """

    logits: jax.Array
    q_halt: jax.Array
    q_continue: jax.Array


class HRLM(nnx.Module):
    """Hierarchical reasoning model; a left-to-right language model only in mode "prefix_ar"."""

    draws_by_row = True
    main_term = "answer"
    solve = checked_rows(act.solve)

    def __init__(self, config: HRLMConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        small = truncated_normal(c.width**-0.5)
        self.embed = Embedding(c.vocab_size, c.width, init=small, rngs=rngs)
        normal, shape = truncated_normal(1.0), (c.registers, c.width)
        # Assigned once: an attribute that was None stays static for Flax.
        self.register = nnx.Param(normal(rngs.params(), shape, jnp.float32)) if shape[0] else None
        self.puzzle = (
            nnx.Param(jnp.zeros((c.puzzle_ids, c.width), jnp.float32)) if c.puzzle_ids else None
        )
        if c.recurrent:
            self.core = HRM(c, rngs=rngs)
        else:
            self.core = HRMNet(c, c.low_layers + c.high_layers, rngs=rngs)
        self.head = Linear(c.width, c.vocab_size, bias=False, init=small, rngs=rngs)
        if c.halts:
            self.q_head = Linear(c.width, 2, init=nnx.initializers.zeros, rngs=rngs)
            self.q_head.bias[...] = jnp.full((2,), -5.0, jnp.float32)

    def initial_state(self, batch_size: int):
        """Return a state in which every row is halted."""
        c = self.config
        if not c.halts:
            return ()
        tokens = jnp.zeros((batch_size, c.seq_len), jnp.int32)
        rows = jnp.zeros((batch_size,), jnp.float32)
        thoughts = self.initial_carry(batch_size, c.seq_len)
        weights = jnp.zeros(tokens.shape, jnp.float32)
        identifiers = rows.astype(jnp.int32)
        return HRLMState(thoughts, rows, rows + 1.0, tokens, tokens, weights, identifiers)

    def initial_carry(self, batch_size: int, length: int) -> HRMState:
        """Return z_H and z_L before the first step: two fixed vectors as (B, R + length, C)."""
        c = self.config
        keys = jax.random.split(jax.random.key(c.init_seed))

        def vector(value, key):
            if value is not None:
                return jnp.asarray(value, jnp.float32)
            return truncated_normal(1.0)(key, (c.width,), jnp.float32)

        shape = (batch_size, c.front + length, c.width)
        high, low = (vector(v, k) for v, k in zip((c.high_init, c.low_init), keys, strict=True))
        return HRMState(*(jnp.broadcast_to(v.reshape(1, 1, -1), shape) for v in (high, low)))

    def embed_tokens(self, tokens, identifiers=None):
        """Embed int (B, T) as (B, R + T, C); `identifiers` int (B,), None means all 0."""
        scale = self.config.width**0.5
        parts = [self.embed(tokens) * (self.config.embed_scale or scale)]
        if self.register is not None:
            shape = (tokens.shape[0], *self.register.shape)
            parts.insert(0, jnp.broadcast_to(self.register[...][None], shape))
        if self.puzzle is not None:
            if identifiers is None:
                identifiers = jnp.zeros(tokens.shape[:1], jnp.int32)
            vector = rows_of(self.puzzle[...], identifiers)[:, None] * scale
            empty = ((0, 0), (0, self.config.puzzle_slots - 1), (0, 0))
            parts.insert(0, jnp.pad(vector, empty))
        return jnp.concatenate(parts, 1)

    def mask(self, tokens, lengths=None) -> Visibility:
        """Return the attention mask of R front positions and tokens int (B, T).

        lengths: prefix lengths, int (B,), in mode prefix_ar; None: through the first SEP.
        """
        c = self.config
        prefix, real = jnp.ones(tokens.shape, bool), jnp.ones(tokens.shape, bool)
        if c.mode == "prefix_ar":
            at = jnp.arange(tokens.shape[1])
            prefix = prefix_of(tokens) if lengths is None else at[None] < lengths[:, None]
            prefix = prefix & (not c.causal)
        if c.mask_pad:  # for the queries in front, too, or the tokens would read PAD through them
            real = tokens != PAD
        ends = ((0, 0), (c.front, 0))
        prefix, real = (jnp.pad(x, ends, constant_values=True) for x in (prefix, real))
        return Visibility(prefix, real, front=c.front, window=c.window)

    @checked_rows
    def __call__(
        self, thoughts: HRMState | None, tokens, grad_calls=None, identifiers=None, lengths=None
    ):
        """Run one ACT step on tokens int (B, T) -> (thoughts, HRLMOutput).

        Args:
          thoughts: the carry; None means `initial_carry`.
          tokens, lengths: see `mask`.
          grad_calls: see `HRM.think`.
          identifiers: puzzle ids, int (B,).
        """
        c = self.config
        x, mask = self.embed_tokens(tokens, identifiers), self.mask(tokens, lengths)
        positions = jnp.broadcast_to(jnp.arange(x.shape[1])[None], x.shape[:2])
        if not c.recurrent:
            read = self.core(x, mask, positions)
            thoughts = HRMState(read, read)
        else:
            if thoughts is None:
                thoughts = self.initial_carry(*tokens.shape)
            if not c.inject:
                # HRM-Text: the input enters only as the initial z_H, not in every call.
                thoughts = thoughts.replace(high=x)
            thoughts = self.core.think(thoughts, x, mask, positions, grad_calls)
        read = thoughts.high
        logits = self.head(read[:, c.front :], c.dtype)
        return thoughts, HRLMOutput(logits, *self._q(read, tokens))

    def parameter_label(self, name: str) -> str:
        """Return "component/role" of a parameter; puzzle vectors have the role "sign"."""
        parts = name.split("/")
        component = parts[1] if parts[0] == "core" and self.config.recurrent else parts[0]
        kind = "matrix" if name.endswith("/kernel") else "other"
        return f"{component}/{'sign' if component == 'puzzle' else kind}"

    def check_data(self, data, seq_len: int, classes=None) -> None:
        """Raise UserError, naming the field, if an experiment's data do not fit the model."""
        del classes
        c = self.config
        formats = ("puzzle", "built") if c.mode == "grid" else ("pairs", "task", "built")
        if data.format not in formats:
            raise UserError(
                f"config.data.format: mode {c.mode!r} requires "
                f"{' or '.join(map(repr, formats))}, got {data.format!r}"
            )
        if c.halts and not data.carry_state:
            raise UserError("config.data.carry_state: must be true for a model that halts")
        if seq_len != c.seq_len:
            raise UserError(f"config.seq_len: must be the model's {c.seq_len}, got {seq_len}")

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `act.terms`."""
        return act.terms(self.config)

    @checked_batch
    def loss_sums(self, state, batch, key=None, progress=None):
        """See `Model.loss_sums` and, for keys, state and batch, `act.run`."""
        if self.config.halts and batch["inputs"].shape[1] != self.config.seq_len:
            raise UserError(
                f"batch['inputs'] must have the model's {self.config.seq_len} tokens a row, got "
                f"{batch['inputs'].shape[1]}"
            )
        state, sums = act.run(self, state, batch, key, progress)
        return state, term_sums(self.terms, sums, batch)

    def _q(self, read, tokens):
        """Apply the Q-head to the first front position, or to the mean over tokens but PAD."""
        if not self.config.halts:
            none = jnp.zeros(read.shape[0], jnp.float32)
            return none, none
        if self.config.front:
            summary = read[:, 0]
        else:
            real = (tokens != PAD).astype(jnp.float32)[..., None]
            summary = jnp.sum(read * real, 1) / jnp.maximum(jnp.sum(real, 1), 1.0)
        q = self.q_head(summary)
        return q[:, 0], q[:, 1]


def prefix_of(tokens):
    """Return bool (B, T), True through the first SEP."""
    after = jnp.cumsum((tokens == SEP).astype(jnp.int32), 1)
    return (after == 0) | ((tokens == SEP) & (after == 1))

"""HRLM: hierarchical reasoning over text and grids, thinking for as many rounds as it decides.

One call is a round of `cells/hrm.py`; between rounds the sample keeps its thoughts (z_H, z_L) but
no gradient, so that each round is a training step of its own ("deep supervision"). A Q-head
estimates whether to halt, from whether the answer is right: `models/hrlm/act.py`. Sources: HRM
(arXiv 2506.21734, sapientinc/HRM), HRM-Text (arXiv 2605.20613), HRLM.md of GS-JAL/HRM; SYSTEMS 5.3,
7.7 to 7.9.

What the tokens of a row are depends on the mode; `data/pairs/layout.py` builds them:

    grid        a puzzle; labels at every position, all positions see each other
    nar         [INPUT][SEP][blank ...]; labels on the blanks, all positions see each other
    prefix_ar   [INPUT][SEP][OUTPUT]; each token of the answer is predicted by the one before it;
                up to and with SEP all see each other, behind it only what came before
    as_written  [INPUT][EOS][SEP][OUTPUT][EOS], labels on OUTPUT at the same positions: the answer
                is in the input, and the model learns to copy it. Kept to show that.

Shapes: B batch, T positions, C width, V vocabulary, R places in front (puzzle, registers).
"""

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells.hrm import HRM, HRMNet, HRMState
from jaxmodels.cells.layers import Embedding, Linear, truncated_normal
from jaxmodels.data.tokenizers.special import PAD, SEP
from jaxmodels.errors import UserError
from jaxmodels.models.contract import Term, term_sums
from jaxmodels.models.hrlm import act
from jaxmodels.models.hrlm.config import HRLMConfig


@struct.dataclass
class HRLMState:
    """What a row carries from round to round; of a model that does not halt it is ().

    Attributes:
      thoughts: z_H and z_L, (B, R + T, C) float32.
      steps: (B,) float32, rounds thought about this sample.
      halted: (B,) float32, 1 where the next round begins a new sample.
      inputs, targets: int32 (B, T), weights: float32 (B, T), and identifiers: int32 (B,), of the
        sample.
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
    """Of one round.

    Attributes:
      logits: float32 (B, T, V).
      q_halt, q_continue: float32 (B,), logits of the Q-head.
    """

    logits: jax.Array
    q_halt: jax.Array
    q_continue: jax.Array


class HRLM(nnx.Module):
    """The model. Not a left-to-right language model but in mode "prefix_ar"."""

    draws_by_row = True
    main_term = "answer"

    def __init__(self, config: HRLMConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        small = truncated_normal(c.width**-0.5)
        self.embed = Embedding(c.vocab_size, c.width, init=small, rngs=rngs)
        drawn = (
            truncated_normal(1.0)(rngs.params(), (c.registers, c.width), jnp.float32)
            if c.registers
            else None
        )
        self.register = None if drawn is None else nnx.Param(drawn)
        table = jnp.zeros((c.puzzle_ids, c.width)) if c.puzzle_ids else None
        self.puzzle = None if table is None else nnx.Param(table)
        if c.recurrent:
            self.core = HRM(c, rngs=rngs)
        else:
            self.core = HRMNet(c, c.low_layers + c.high_layers, rngs=rngs)
        self.head = Linear(c.width, c.vocab_size, bias=False, init=small, rngs=rngs)
        if c.halts:
            self.q_head = Linear(c.width, 2, init=nnx.initializers.zeros, rngs=rngs)
            self.q_head.bias[...] = jnp.full((2,), -5.0)

    def initial_state(self, batch_size: int):
        """Every row waits for a sample."""
        c = self.config
        if not c.halts:
            return ()
        tokens = jnp.zeros((batch_size, c.seq_len), jnp.int32)
        rows = jnp.zeros((batch_size,))
        thoughts = self.initial_carry(batch_size, c.seq_len)
        weights = jnp.zeros(tokens.shape)
        which = rows.astype(jnp.int32)
        return HRLMState(thoughts, rows, rows + 1.0, tokens, tokens, weights, which)

    def initial_carry(self, batch_size: int, length: int) -> HRMState:
        """z_H and z_L before the first round, (B, R + length, C): two fixed vectors."""
        c = self.config
        keys = jax.random.split(jax.random.key(c.init_seed))

        def vector(given, key):
            if given is not None:
                return jnp.asarray(given, jnp.float32)
            return truncated_normal(1.0)(key, (c.width,), jnp.float32)

        shape = (batch_size, c.front + length, c.width)
        high, low = (vector(v, k) for v, k in zip((c.high_init, c.low_init), keys, strict=True))
        return HRMState(*(jnp.broadcast_to(v.reshape(1, 1, -1), shape) for v in (high, low)))

    def embed_tokens(self, tokens, identifiers=None):
        """int (B, T), int (B,) or None for all 0 -> (B, R + T, C), the tokens of unit variance."""
        scale = self.config.width**0.5
        parts = [self.embed(tokens) * (self.config.embed_scale or scale)]
        if self.register is not None:
            shape = (tokens.shape[0], *self.register.shape)
            parts.insert(0, jnp.broadcast_to(self.register[...][None], shape))
        if self.puzzle is not None:
            if identifiers is None:
                identifiers = jnp.zeros(tokens.shape[:1], jnp.int32)
            parts.insert(0, self.puzzle[...][identifiers][:, None] * scale)
        return jnp.concatenate(parts, 1)

    def mask(self, tokens, lengths=None):
        """int (B, T) -> bool (B, R + T, R + T): which positions (last axis) each one sees.

        lengths: int (B,) of the prefixes in mode prefix_ar; None: up to and with the first SEP.
        """
        c, front = self.config, self.config.front
        batch, length = tokens.shape
        at = jnp.arange(length)
        seen = jnp.ones((batch, length, length), bool)
        if c.mode == "prefix_ar":
            prefix = prefix_of(tokens) if lengths is None else at[None] < lengths[:, None]
            both = prefix[:, :, None] & prefix[:, None, :] & (not c.causal)
            seen = both | (at[None, :, None] >= at[None, None, :])
        if c.window is not None:
            near = jnp.abs(at[:, None] - at[None]) < c.window
            seen = seen & near[None]
        if c.mask_pad:
            seen = seen & (tokens != PAD)[:, None, :]
        return jnp.pad(seen, ((0, 0), (front, 0), (front, 0)), constant_values=True)

    def __call__(
        self, thoughts: HRMState | None, tokens, grad_calls=None, identifiers=None, lengths=None
    ):
        """One round. thoughts None: fresh ones. tokens int (B, T) -> (thoughts, HRLMOutput).

        grad_calls: see `HRM.think`; identifiers: int (B,) of the puzzles; lengths: see `mask`.
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
                # HRM-Text: the input enters as the first z_H, which is no part of the recurrence.
                thoughts = thoughts.replace(high=x)
            thoughts = self.core.think(thoughts, x, mask, positions, grad_calls)
        read = thoughts.high
        logits = self.head(read[:, c.front :], c.dtype)
        return thoughts, HRLMOutput(logits, *self._q(read, tokens))

    def solve(self, tokens, *, adaptive=False, max_steps=None, identifiers=None):
        """The answer after as many rounds as it takes; see `act.solve`."""
        return act.solve(
            self, tokens, adaptive=adaptive, max_steps=max_steps, identifiers=identifiers
        )

    def parameter_label(self, name: str) -> str:
        """ "component/role" of a parameter: the puzzles' vectors learn by their sign."""
        parts = name.split("/")
        component = parts[1] if parts[0] == "core" and self.config.recurrent else parts[0]
        kind = "matrix" if name.endswith("/kernel") else "other"
        return f"{component}/{'sign' if component == 'puzzle' else kind}"

    def check_data(self, data, seq_len: int, classes=None) -> None:
        """Whether an experiment's data are what this model reads; `train` asks before it starts.

        Raises:
          UserError: they are not, and which field would have to change.
        """
        del classes
        c = self.config
        wanted = ("puzzle", "built") if c.mode == "grid" else ("pairs", "task", "built")
        if data.format not in wanted:
            raise UserError(
                f"config.data.format: in mode {c.mode!r} this model reads "
                f"{' or '.join(map(repr, wanted))}, got {data.format!r}"
            )
        if c.halts and not data.carry_state:
            raise UserError(
                "config.data.carry_state: a model that halts thinks on from step to step; set true"
            )
        if seq_len != c.seq_len:
            raise UserError(f"config.seq_len: {seq_len}, but the model's rows have {c.seq_len}")

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `act.terms`."""
        return act.terms(self.config)

    def loss_sums(self, state, batch, key=None, progress=None):
        """See `Model.loss_sums` and, for keys, state and batch, `act.run`."""
        state, out = act.run(self, state, batch, key, progress)
        return state, term_sums(self.terms, out, batch)

    def _q(self, read, tokens):
        """The Q-head on the first place in front, or on the mean of those that are not PAD."""
        if not self.config.halts:
            return jnp.zeros(read.shape[0]), jnp.zeros(read.shape[0])
        if self.config.front:
            summary = read[:, 0]
        else:
            real = (tokens != PAD).astype(jnp.float32)[..., None]
            summary = jnp.sum(read * real, 1) / jnp.maximum(jnp.sum(real, 1), 1.0)
        q = self.q_head(summary)
        return q[:, 0], q[:, 1]


def prefix_of(tokens):
    """bool (B, T): up to and with the first SEP."""
    after = jnp.cumsum((tokens == SEP).astype(jnp.int32), 1)
    return (after == 0) | ((tokens == SEP) & (after == 1))

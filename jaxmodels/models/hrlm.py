"""HRLM: hierarchical reasoning over text and grids, thinking for as many rounds as it decides.

One call is a round of `cells/hrm.py`; between rounds the sample keeps its thoughts (z_H, z_L) but
no gradient, so that each round is a training step of its own ("deep supervision"). A Q-head
estimates whether to halt, from whether the answer is right: `models/thinking.py`. Sources: HRM
(arXiv 2506.21734, sapientinc/HRM), HRM-Text (arXiv 2605.20613), HRLM.md of GS-JAL/HRM; SYSTEMS 5.3,
7.7 to 7.9.

What the tokens of a row are depends on the mode; `data/prompts.py` builds them:

    grid        a puzzle; labels at every position, all positions see each other
    nar         [INPUT][SEP][blank ...]; labels on the blanks, all positions see each other
    prefix_ar   [INPUT][SEP][OUTPUT]; each token of the answer is predicted by the one before it;
                up to and with SEP all see each other, behind it only what came before
    as_written  [INPUT][EOS][SEP][OUTPUT][EOS], labels on OUTPUT at the same positions: the answer
                is in the input, and the model learns to copy it. Kept to show that.

Shapes: B batch, T positions, C width, V vocabulary, R places in front (puzzle, registers).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells.checks import one_of, positive
from jaxmodels.cells.hrm import HRM, HRMConfig, HRMNet, HRMState
from jaxmodels.cells.layers import Embedding, Linear
from jaxmodels.errors import UserError
from jaxmodels.models import thinking

PAD, EOS, UNK, SEP = 0, 1, 2, 3
MODES = ("grid", "nar", "prefix_ar", "as_written")


@dataclasses.dataclass(frozen=True)
class HRLMConfig:
    """Sizes and choices; those of the recurrence are explained in `HRMConfig`.

    Attributes:
      vocab_size: V. Ids 0-3 are PAD (blank), EOS, UNK and SEP, but in grids.
      seq_len: T of a row.
      mode: see the module.
      recurrent: False makes it a plain transformer of low_layers + high_layers blocks, read once.
      registers: learned vectors in front of the tokens; the Q-head reads the first place.
      puzzle_ids: of puzzles that have a learned vector each, which stands before the registers; 0
        means none. It starts at 0 and is learned by its sign alone (`train/sign_sgd.py`).
      halt_max_steps: rounds at most; 1 means no halting and no carry.
      halt_exploration: share of samples that must think a random number of rounds at least.
      q_continue: the Q-head also estimates the worth of going on, as HRM; without, as TRM, a
        sample halts when it is more likely right than not.
      loss: "softmax", or "stablemax" (arXiv 2501.04697).
      loss_mean: "sequence", over a row's labels and then over rows (L-50); "token", over all.
      bp_warmup: share of training over which the number of calls with a gradient rises from 2 to
        grad_calls, as HRM-Text; 0 = from the start.
      window: positions that a position sees on each side; None means all.
      mask_pad: nobody sees PAD. Not in nar, whose blanks it would hide.
      embed_scale: of the embedded tokens; None means sqrt(width), which the table's initial values
        make of unit variance.
      eos_id: token that ends an answer, in prefix_ar alone; None: nothing does. This package's own
        data end with EOS, 1.
      low_init: z_L at the start; None means drawn by `init_seed`. high_init likewise.
      init_seed: of the two fixed vectors.
      dtype: of the matrix products, "float32" or "bfloat16"; parameters and states are float32.
    """

    vocab_size: int = 84
    seq_len: int = 256
    mode: str = "nar"
    width: int = 256
    head_size: int | None = None
    high_cycles: int = 2
    low_cycles: int = 2
    high_layers: int = 2
    low_layers: int = 2
    expansion: float = 4.0
    mlp_multiple: int = 256
    norm: str = "post"
    norm_eps: float = 1e-5
    head_gate: bool = False
    inject: bool = True
    shared: bool = False
    grad_calls: int = 2
    grad_rule: str = "last"
    rope_base: float = 1e4
    recurrent: bool = True
    registers: int = 1
    puzzle_ids: int = 0
    halt_max_steps: int = 8
    halt_exploration: float = 0.1
    q_continue: bool = True
    loss: str = "softmax"
    loss_mean: str = "sequence"
    bp_warmup: float = 0.0
    window: int | None = None
    mask_pad: bool = False
    embed_scale: float | None = None
    eos_id: int | None = EOS
    low_init: tuple | None = None
    high_init: tuple | None = None
    init_seed: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        positive(self, "vocab_size", "seq_len", "halt_max_steps")
        one_of(self, "mode", MODES)
        one_of(self, "loss", ("softmax", "stablemax"))
        one_of(self, "loss_mean", ("sequence", "token"))
        if not 0.0 <= self.halt_exploration <= 1.0:
            raise UserError(f"halt_exploration must lie in [0, 1], got {self.halt_exploration!r}")
        if not 0.0 <= self.bp_warmup <= 1.0:
            raise UserError(f"bp_warmup must lie in [0, 1], got {self.bp_warmup!r}")
        for name in ("registers", "puzzle_ids"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.mask_pad and self.mode == "nar":
            raise UserError("mask_pad: in mode nar the blanks are PAD and must be seen")
        if self.mode == "prefix_ar" and (self.halt_max_steps > 1 or self.front):
            raise UserError("mode prefix_ar neither halts nor has registers; set 1 and 0")
        if not self.recurrent and self.halt_max_steps > 1:
            raise UserError("recurrent=False reads once; set halt_max_steps=1")
        if self.embed_scale is not None and not self.embed_scale > 0.0:
            raise UserError(f"embed_scale must be positive, got {self.embed_scale!r}")
        for name in ("low_init", "high_init"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, tuple(float(x) for x in given))
                if len(given) != self.width:
                    raise UserError(f"{name}: {len(given)} numbers, but the width is {self.width}")
        _ = self.cell  # validates its own fields

    @property
    def cell(self) -> HRMConfig:
        """The config of the recurrence."""
        names = [field.name for field in dataclasses.fields(HRMConfig)]
        return HRMConfig(**{name: getattr(self, name) for name in names})

    @property
    def front(self) -> int:
        """R, places before the tokens."""
        return self.registers + (self.puzzle_ids > 0)

    @property
    def halts(self) -> bool:
        """Whether there are several rounds."""
        return self.halt_max_steps > 1


_SEED = {"registers": 0, "expansion": 4.0}
_TEXT = {"mode": "prefix_ar", "registers": 0, "halt_max_steps": 1, "norm": "pre", "norm_eps": 1e-6}
_TEXT |= {"head_gate": True, "inject": False, "low_cycles": 3, "grad_calls": 5}
_TEXT |= {"grad_rule": "per_module", "bp_warmup": 0.2, "loss_mean": "token"}
PRESETS = {
    "base": _SEED
    | {"vocab_size": 100, "seq_len": 256, "width": 512, "high_layers": 4, "low_layers": 4}
    | {"high_cycles": 2, "low_cycles": 2, "halt_max_steps": 16},
    "intermediate": _SEED
    | {"vocab_size": 1000, "seq_len": 512, "width": 768, "high_layers": 6, "low_layers": 6}
    | {"high_cycles": 3, "low_cycles": 3, "halt_max_steps": 32},
    "advanced": _SEED
    | {"vocab_size": 10_000, "seq_len": 1024, "width": 1024, "high_layers": 8, "low_layers": 8}
    | {"high_cycles": 4, "low_cycles": 4, "halt_max_steps": 64},
    "text": _SEED
    | {"vocab_size": 1000, "seq_len": 1024, "width": 768, "high_layers": 6, "low_layers": 6}
    | {"high_cycles": 4, "low_cycles": 4, "halt_max_steps": 64},
    "hrm_sudoku": _SEED
    | {"mode": "grid", "vocab_size": 11, "seq_len": 81, "width": 512, "high_layers": 4}
    | {"low_layers": 4, "halt_max_steps": 16, "loss": "stablemax"},
    "trm_sudoku": {"mode": "grid", "vocab_size": 11, "seq_len": 81, "width": 512, "shared": True}
    | {"high_layers": 2, "low_layers": 2, "high_cycles": 3, "low_cycles": 6, "grad_calls": 7}
    | {"halt_max_steps": 16, "q_continue": False, "loss": "stablemax", "registers": 0},
    "as_written": _SEED
    | {"mode": "as_written", "vocab_size": 100, "width": 512, "high_layers": 4, "low_layers": 4}
    | {"halt_max_steps": 16},
    "prefix_ar": _TEXT,
}


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

    uses_progress = True
    main_term = "answer"

    def __init__(self, config: HRLMConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        small = nnx.initializers.truncated_normal(c.width**-0.5)
        self.embed = Embedding(c.vocab_size, c.width, init=small, rngs=rngs)
        unit = nnx.initializers.truncated_normal(1.0)
        drawn = unit(rngs.params(), (c.registers, c.width), jnp.float32) if c.registers else None
        self.register = None if drawn is None else nnx.Param(drawn)
        table = jnp.zeros((c.puzzle_ids, c.width)) if c.puzzle_ids else None
        self.puzzle = None if table is None else nnx.Param(table)
        if c.recurrent:
            self.core = HRM(c.cell, rngs=rngs)
        else:
            self.core = HRMNet(c.cell, c.low_layers + c.high_layers, rngs=rngs)
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
        thoughts = self.fresh_thoughts(batch_size, c.seq_len)
        weights = jnp.zeros(tokens.shape)
        which = rows.astype(jnp.int32)
        return HRLMState(thoughts, rows, rows + 1.0, tokens, tokens, weights, which)

    def fresh_thoughts(self, batch_size: int, length: int) -> HRMState:
        """z_H and z_L before the first round, (B, R + length, C): two fixed vectors."""
        c = self.config
        keys = jax.random.split(jax.random.key(c.init_seed))

        def vector(given, key):
            if given is not None:
                return jnp.asarray(given, jnp.float32)
            return jax.random.truncated_normal(key, -2.0, 2.0, (c.width,))

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
            both = prefix[:, :, None] & prefix[:, None, :]
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
                thoughts = self.fresh_thoughts(*tokens.shape)
            if not c.inject:
                # HRM-Text: the input enters as the first z_H, which is no part of the recurrence.
                thoughts = thoughts.replace(high=x)
            thoughts = self.core.think(thoughts, x, mask, positions, grad_calls)
        read = thoughts.high
        logits = self.head(read[:, c.front :], c.dtype)
        return thoughts, HRLMOutput(logits, *self._q(read, tokens))

    def solve(self, tokens, *, adaptive=False, max_steps=None, identifiers=None):
        """The answer after as many rounds as it takes; see `thinking.solve`."""
        return thinking.solve(
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
        wanted = ("puzzle",) if c.mode == "grid" else ("pairs", "task")
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

    def target_counts(self, batch) -> dict[str, jax.Array]:
        """Number behind each term of `loss_sums`: rows with a label, or labels."""
        return thinking.target_counts(self, batch)

    def loss_sums(self, state, batch, key=None, progress=None):
        """Losses and metrics of a round, or without a key of a whole thought, as sums."""
        return thinking.loss_sums(self, state, batch, key, progress)

    def loss_weights(self, progress) -> dict[str, jax.Array]:
        """Of the answer's loss 1, of each of the Q-head's two a half, as HRM."""
        del progress
        c = self.config
        weights = {"answer": 1.0} | ({"halt": 0.5} if c.halts else {})
        weights |= {"continue": 0.5} if c.halts and c.q_continue else {}
        return {name: jnp.float32(weight) for name, weight in weights.items()}

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

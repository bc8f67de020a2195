"""Configurations and presets of HRLM and of HRM for grids; `model.py` explains the modes."""

import dataclasses

from jaxmodels.cells.base import not_negative, one_of, positive
from jaxmodels.cells.hrm import HRMConfig
from jaxmodels.data.pairs.layout import MODES
from jaxmodels.data.tokenizers.special import EOS
from jaxmodels.errors import UserError


@dataclasses.dataclass(frozen=True)
class HRLMConfig(HRMConfig):
    """Configuration of an HRLM; see `HRMConfig` for the recurrence.

    Attributes:
      vocab_size: V. Except in grids, ids 0-3 are PAD (blank), EOS, UNK and SEP.
      seq_len: T, the row length.
      mode: see `hrlm/model.py`.
      max_input_length, max_output_length: most tokens of a question and of an answer; None = what
        fits in a row.
      recurrent: False makes it a plain transformer of low_layers + high_layers blocks.
      registers: learned vectors before the tokens; the Q-head reads the first position.
      puzzle_slots: positions of the puzzle's vector: itself, and empty ones, 16 in TRM.
      puzzle_ids: number of puzzles with a learned vector each, placed before the registers; 0 means
        none. They start at 0 and are trained by sign SGD (`train/optim/sign_sgd.py`).
      halt_max_steps: limit of ACT steps; 1 means no halting and no carry.
      halt_exploration: fraction of samples that get a random minimum number of ACT steps.
      adaptive: in training, halt a sample by its Q-head; False: after halt_max_steps.
      eval_halt: in evaluation, "max" runs halt_max_steps ACT steps, "adaptive" halts by the Q-head.
        A model trained with halting may be worse in steps that it rarely reached in training.
      eval_confidence: in evaluation, the Q-head halts a row only where it holds the answer for
        right with at least this probability. Training needs no more than one half, so that by
        itself a model stops where it is often still wrong.
      q_continue: estimate the value of continuing, too, as in HRM; if False, as in TRM, a sample
        halts when its answer is more likely correct than not.
      loss: "softmax" or "stablemax" (arXiv 2501.04697).
      loss_mean: "sequence", mean over a row's labels, then over rows; "token", over all labels.
      bp_warmup: fraction of training over which the number of calls with a gradient rises from 2 to
        grad_calls, as in HRM-Text; 0 = no warm-up.
      causal: use causal attention in the question, too (prefix_ar only).
      window: attention span in tokens on each side; None means unlimited.
      mask_pad: exclude PAD from attention; not in nar, whose blanks are PAD.
      embed_scale: factor of embedded tokens; None means sqrt(width), for unit variance.
      eos_id: token that ends an answer (prefix_ar only); None means none.
      low_init, high_init: initial z_L and z_H; None means drawn from `init_seed`.
      init_seed: seed of the initial z_L and z_H.
    """

    width: int = 256
    high_layers: int = 2
    low_layers: int = 2
    vocab_size: int = 84
    seq_len: int = 256
    max_input_length: int | None = None
    max_output_length: int | None = None
    mode: str = "nar"
    recurrent: bool = True
    registers: int = 1
    puzzle_ids: int = 0
    puzzle_slots: int = 1
    halt_max_steps: int = 8
    halt_exploration: float = 0.1
    q_continue: bool = True
    loss: str = "softmax"
    loss_mean: str = "sequence"
    bp_warmup: float = 0.0
    adaptive: bool = True
    eval_halt: str = "max"
    eval_confidence: float = 0.0
    causal: bool = False
    window: int | None = None
    mask_pad: bool = False
    embed_scale: float | None = None
    eos_id: int | None = EOS
    low_init: tuple | None = None
    high_init: tuple | None = None
    init_seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        positive(self, "vocab_size", "seq_len", "halt_max_steps", "puzzle_slots")
        one_of(self, "mode", MODES)
        one_of(self, "loss", ("softmax", "stablemax"))
        one_of(self, "eval_halt", ("max", "adaptive"))
        one_of(self, "loss_mean", ("sequence", "token"))
        for name in ("halt_exploration", "bp_warmup", "eval_confidence"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"{name} must lie in [0, 1], got {getattr(self, name)!r}")
        not_negative(self, "registers", "puzzle_ids")
        for name in ("max_input_length", "max_output_length"):
            if getattr(self, name) is not None:
                positive(self, name)
                if self.mode == "grid":
                    raise UserError(f"{name}: a grid has seq_len cells; leave it out")
        if self.mask_pad and self.mode == "nar":
            raise UserError("mask_pad: must be False in mode nar, whose blanks are PAD")
        if self.mode == "prefix_ar" and (self.halt_max_steps > 1 or self.front):
            raise UserError(
                "mode prefix_ar requires halt_max_steps=1, registers=0 and puzzle_ids=0"
            )
        if self.mixer == "tokens" and (
            self.mode == "prefix_ar" or self.window is not None or self.mask_pad
        ):
            raise UserError(
                "mixer 'tokens' reads every position: leave out window and mask_pad, and choose "
                f"another mode than prefix_ar, got mode={self.mode!r}"
            )
        if self.causal and self.mode != "prefix_ar":
            raise UserError(f"causal: requires mode prefix_ar, got {self.mode}")
        if self.loss_mean == "token" and self.halts:
            # Counts come from the incoming batch, but rows may still work on earlier samples.
            raise UserError("loss_mean: 'token' does not support halting; set 'sequence'")
        if not self.recurrent and self.halt_max_steps > 1:
            raise UserError("recurrent=False does not support halting; set halt_max_steps=1")
        if self.embed_scale is not None and not self.embed_scale > 0.0:
            raise UserError(f"embed_scale must be positive, got {self.embed_scale!r}")
        for name in ("low_init", "high_init"):
            vector = getattr(self, name)
            if vector is not None:
                object.__setattr__(self, name, tuple(float(x) for x in vector))
                if len(vector) != self.width:
                    raise UserError(f"{name}: expected {self.width} numbers, got {len(vector)}")

    @property
    def front(self) -> int:
        """R, the number of positions before the tokens."""
        return self.registers + self.puzzle_slots * (self.puzzle_ids > 0)

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """Most tokens of a question, and of an answer."""
        return self.max_input_length, self.max_output_length

    @property
    def positions(self) -> int:
        """R + T."""
        return self.front + self.seq_len

    @property
    def halts(self) -> bool:
        """True if there is more than one ACT step."""
        return self.halt_max_steps > 1


@dataclasses.dataclass(frozen=True)
class HRMGridConfig(HRLMConfig):
    """HRM and TRM for grids, Sudoku and mazes; the defaults are HRM on Sudoku, 27M parameters.

    Sources: HRM (arXiv 2506.21734, sapientinc/HRM), TRM (arXiv 2510.04871). Without puzzle numbers,
    all puzzles share one learned vector, at the position that the Q-head reads.
    """

    vocab_size: int = 11
    seq_len: int = 81
    mode: str = "grid"
    width: int = 512
    high_layers: int = 4
    low_layers: int = 4
    registers: int = 0
    puzzle_ids: int = 1
    halt_max_steps: int = 16
    loss: str = "stablemax"


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
    | {"max_input_length": 512, "max_output_length": 512}
    | {"vocab_size": 1000, "seq_len": 1024, "width": 768, "high_layers": 6, "low_layers": 6}
    | {"high_cycles": 4, "low_cycles": 4, "halt_max_steps": 64},
    "v1": _SEED
    | {"vocab_size": 1000, "seq_len": 1024, "width": 768, "high_layers": 6, "low_layers": 6}
    | {"high_cycles": 4, "low_cycles": 4, "halt_max_steps": 32},
    "as_written": _SEED
    | {"mode": "as_written", "vocab_size": 100, "width": 512, "high_layers": 4, "low_layers": 4}
    | {"halt_max_steps": 16},
    "prefix_ar": _TEXT,
}
_TRM = {"shared": True, "high_layers": 2, "low_layers": 2, "high_cycles": 3, "low_cycles": 6}
_TRM |= {"grad_calls": 7, "q_continue": False, "puzzle_slots": 16}
_MAZE = {"vocab_size": 6, "seq_len": 900}
GRID_PRESETS = {
    "hrm_sudoku": {},  # the defaults
    "trm_sudoku": _TRM,
    "trm_sudoku_mlp": _TRM | {"mixer": "tokens"},
    "hrm_maze": _MAZE,
    "trm_maze": _TRM | _MAZE | {"low_cycles": 4, "grad_calls": 5},
}

"""HRM and TRM for grids: Sudoku, mazes. `model.HRLM` in mode "grid", with the originals' sizes.

Sources: HRM (arXiv 2506.21734, sapientinc/HRM), TRM (arXiv 2510.04871); SYSTEMS 7.7, 7.8.
"""

import dataclasses

from jaxmodels.models.hrlm import model
from jaxmodels.models.hrlm.config import PRESETS as TEXT_PRESETS
from jaxmodels.models.hrlm.config import HRLMConfig


@dataclasses.dataclass(frozen=True)
class HRMGridConfig(HRLMConfig):
    """As `HRLMConfig`; the defaults are those of HRM on Sudoku, 27 million parameters.

    All puzzles of a data set without numbers share one learned vector; its place in front is the
    one that the Q-head reads. TRM's has 15 more places, which are left empty, in front; not here.
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


_MAZE = {"vocab_size": 6, "seq_len": 900}
PRESETS = {
    "hrm_sudoku": TEXT_PRESETS["hrm_sudoku"],
    "trm_sudoku": TEXT_PRESETS["trm_sudoku"],
    "hrm_maze": TEXT_PRESETS["hrm_sudoku"] | _MAZE,
    "trm_maze": TEXT_PRESETS["trm_sudoku"] | _MAZE | {"low_cycles": 4, "grad_calls": 5},
}


class HRMGrid(model.HRLM):
    """The model; what it promises is what `HRLM` does."""

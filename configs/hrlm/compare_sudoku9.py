"""HRM, TRM and transformers on 9x9 Sudokus, the same puzzles with the same augmentation.

    python -m eval.sweep --config=configs/hrlm/compare_sudoku9.py --workdir=runs/compare_sudoku9
                         --seeds 0 --data train.csv

All blocks have one size; HRM and TRM take 8 ACT steps. A training step of HRM makes six calls of
two blocks, with gradients through two of them: as much as (12 + 2 x 4) / 3 = 7 blocks of a
transformer, which "equal FLOPs" refers to. An answer costs HRM 8 x 12 blocks, a transformer 7.
TRM's one net of two blocks, half of HRM's parameters, costs (42 + 2 x 14) / 3 = 23 blocks.
Results: docs/results/hrlm.md.
"""

from typing import Any

from configs.common import wrong
from configs.hrlm.sudoku9 import get_config

PLAIN = {"recurrent": False, "halt_max_steps": 1}
# One net of two blocks, gradients through its last full recursion (SamsungSAILMontreal).
TRM = {"shared": True, "high_cycles": 3, "low_cycles": 6, "grad_calls": 7}


def get_sweep() -> dict[str, Any]:
    """Return the runs, measured by the percentage of wrong puzzles."""
    return {
        "config": get_config(),
        "seeds": (0, 1, 2),
        "entries": {
            "hrm": {},
            "trm": {"changes": TRM},
            "transformer, equal parameters": {"changes": PLAIN},
            "transformer, equal FLOPs": {"changes": PLAIN | {"low_layers": 5}},
        },
        "measure": wrong("puzzles"),
        "answers": True,
    }

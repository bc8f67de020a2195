"""HRM, TRM and transformers on 9x9 Sudokus, the same puzzles with the same augmentation.

    python -m eval.sweep --config=configs/hrlm/compare_sudoku9.py --workdir=runs/compare_sudoku9
                         --seeds 0 --data train.csv

Blocks of one size everywhere, 8 rounds for HRM and TRM. A training step of HRM costs as much as 7
blocks read and learned once, (12 + 2 x 4) / 3: six calls of two blocks, the gradient through two
calls. That is what "equal FLOPs" means; an answer costs HRM 8 rounds of 12 blocks, a transformer
its 7. TRM's one net of two blocks, half of HRM's parameters, costs (42 + 2 x 14) / 3 = 23 blocks.
Results: see docs/hrlm.md.
"""

from typing import Any

from configs.hrlm.sudoku9 import get_config

PLAIN = {"recurrent": False, "halt_max_steps": 1}
# One net of two blocks, the gradient through its last whole recursion (SamsungSAILMontreal).
TRM = {"shared": True, "high_cycles": 3, "low_cycles": 6, "grad_calls": 7}


def get_sweep() -> dict[str, Any]:
    """Return the runs, the share of wrong puzzles as their measure."""
    return {
        "config": get_config(),
        "seeds": (0, 1, 2),
        "entries": {
            "hrm": {},
            "trm": {"changes": TRM},
            "transformer, equal parameters": {"changes": PLAIN},
            "transformer, equal FLOPs": {"changes": PLAIN | {"low_layers": 5}},
        },
        "measure": {"name": "exact", "unit": "% of puzzles wrong", "best": 1.0, "scale": 100.0},
        "answers": True,
    }

"""HRM, TRM and transformers on 9x9 Sudokus, the same puzzles with the same augmentation.

    python -m eval.compare --config=configs/hrlm/compare_sudoku9.py --workdir=runs/compare_sudoku9
                           --seeds 0 --data train.csv

Blocks of one size everywhere, 8 rounds for HRM and TRM. A round of HRM costs as much as 7 blocks
read once: 6 calls of two, the gradient through two of them. Results: see docs/hrlm.md.
"""

from typing import Any

SUDOKU = "configs/hrlm/sudoku9.py"
PLAIN = {"model_config.recurrent": False, "model_config.halt_max_steps": 1}
# One net of two blocks, the gradient through its last whole recursion (SamsungSAILMontreal).
TRM = {
    "model_config.shared": True,
    "model_config.high_cycles": 3,
    "model_config.low_cycles": 6,
    "model_config.grad_calls": 7,
}


def get_comparison() -> dict[str, Any]:
    """Runs: name -> (config file, fields that are other)."""
    runs = {
        "hrm": (SUDOKU, {}),
        "trm": (SUDOKU, TRM),
        "transformer, equal parameters": (SUDOKU, PLAIN),
        "transformer, equal FLOPs": (SUDOKU, PLAIN | {"model_config.low_layers": 5}),
    }
    return {"runs": runs}

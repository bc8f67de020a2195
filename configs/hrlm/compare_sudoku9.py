"""HRM, TRM and transformers on 9x9 Sudokus, the same puzzles with the same augmentation.

    python -m eval.compare --config=configs/hrlm/compare_sudoku9.py --workdir=runs/compare_sudoku9
                           --seeds 0 --data train.csv

Blocks of one size everywhere, 8 rounds for HRM and TRM. A training step of HRM costs as much as 7
blocks read and learned once, (12 + 2 x 4) / 3: six calls of two blocks, the gradient through two
calls. That is what "equal FLOPs" means; an answer costs HRM 8 rounds of 12 blocks, a transformer
its 7. TRM's one net of two blocks, half of HRM's parameters, costs (42 + 2 x 14) / 3 = 23 blocks.
Results: see docs/hrlm.md.
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

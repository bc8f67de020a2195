"""HRM on 9x9 Sudokus out of a CSV in HRM's column order, with augmentation.

    python -m train --config=configs/hrlm/sudoku9.py --workdir=runs/sudoku9 --data train.csv
    python -m eval --workdir=runs/sudoku9

TRM instead: --config.model=hrm/trm_sudoku and the widths below. Scores: see docs/hrlm.md.
"""

from ml_collections import ConfigDict

from configs.hrlm import sudoku4


def get_config() -> ConfigDict:
    """As 4x4, wider and longer; without --data, generated puzzles."""
    config = sudoku4.get_config()
    config.model_config.update({"width": 128, "low_layers": 2, "high_layers": 2})
    config.update({"steps": 3000, "batch_size": 32, "seq_len": 81})
    config.data.update({"tasks": ("sudoku9",), "examples": 2000, "eval_tokens": 16384})
    return config

"""HRM on 9x9 Sudokus, from a CSV file with HRM's columns, with augmentation.

    python -m train --config=configs/hrlm/sudoku9.py --workdir=runs/sudoku9 --data train.csv
    python -m eval --workdir=runs/sudoku9

TRM instead: --config.model=hrm/trm_sudoku. Scores: docs/results/hrlm.md.
"""

from ml_collections import ConfigDict

from configs.hrlm import sudoku4


def get_config() -> ConfigDict:
    """Return the 4x4 config with longer rows; without --data, puzzles are generated."""
    config = sudoku4.get_config()
    config.update({"batch_size": 32, "seq_len": 81})
    config.data.update({"tasks": ("sudoku9",), "eval_tokens": 16384})
    return config

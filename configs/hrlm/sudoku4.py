"""HRM on 4x4 Sudokus: 2,000 puzzles with one solution each, held-out ones new up to symmetry.

    python -m train --config=configs/hrlm/sudoku4.py --workdir=runs/sudoku4
    python -m eval --workdir=runs/sudoku4

Scores: docs/results/hrlm.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the config: 3,000 steps; digits, bands and lines of each puzzle randomly permuted."""
    return ConfigDict(
        {
            "model": "hrm",
            "model_config": {
                "width": 128,
                "head_size": 32,
                "high_layers": 2,
                "low_layers": 2,
                "mlp_multiple": 32,
                "registers": 1,
                "puzzle_ids": 0,  # one vector for all is a register that learns by its sign
                "halt_max_steps": 8,
                "eval_confidence": 0.9,  # at one half, a model stops where it is often wrong
                "q_continue": False,
            },
            "steps": 3000,
            "batch_size": 64,
            "seq_len": 16,
            "eval_every": 200,
            "checkpoint_every": 200,
            "log_every": 20,
            "optimizer": {
                "name": "adam_atan2",
                "learning_rate": 1e-3,
                "warmup_steps": 100,
                "weight_decay": 0.1,
                "b2": 0.95,
                "clip_norm": 0.0,  # the step of AdamATan2 does not depend on a gradient's scale
                "ema_decay": 0.99,
            },
            "data": {
                "format": "puzzle",
                "tasks": ("sudoku4",),
                "tokenizer": "grid",
                "augment": True,
                "valid_fraction": 0.1,
                "test_fraction": 0.1,
                "eval_tokens": 8192,
            },
        }
    )

"""HRM on 4x4 Sudokus: 2,000 puzzles with one solution each, unseen ones new up to symmetry.

    python -m train --config=configs/hrlm/sudoku4.py --workdir=runs/sudoku4
    python -m eval --workdir=runs/sudoku4

Scores: see docs/hrlm.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Each puzzle comes with digits, bands and lines permuted anew."""
    return ConfigDict(
        {
            "model": "hrm",
            "model_config": {
                "vocab_size": 0,
                "width": 128,
                "head_size": 32,
                "high_layers": 2,
                "low_layers": 2,
                "high_cycles": 2,
                "low_cycles": 2,
                "mlp_multiple": 32,
                "registers": 1,
                "puzzle_ids": 0,  # one vector for all is a register that learns by its sign
                "halt_max_steps": 8,
                "q_continue": False,
            },
            "steps": 3000,
            "batch_size": 64,
            "seq_len": 16,
            "seed": 0,
            "dtype": "float32",
            "eval_every": 200,
            "checkpoint_every": 200,
            "log_every": 20,
            "optimizer": {
                "name": "adam_atan2",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "weight_decay": 0.1,
                "b1": 0.9,
                "b2": 0.95,
                "clip_norm": 0.0,  # the step of AdamATan2 does not depend on a gradient's scale
                "ema_decay": 0.99,
            },
            "data": {
                "format": "puzzle",
                "tasks": ("sudoku4",),
                "examples": 2000,
                "tokenizer": "grid",
                "augment": True,
                "valid_fraction": 0.1,
                "test_fraction": 0.1,
                "carry_state": True,
                "eval_tokens": 8192,
            },
        }
    )

"""GroundThink at a size for two CPU cores: 12 layers x 64, the anchor in the middle, characters.

    python -m train --config=configs/groundthink/cpu.py --workdir=runs/ground --data input.txt

The base config of configs/groundthink/matrix.py; without --data it reads the State of the Union
speeches. Scores: docs/results/groundthink.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the config: 400 steps over contiguous tracks; the state is carried between batches."""
    return ConfigDict(
        {
            "model": "groundthink",
            "model_config": {
                "width": 64,
                "head_size": 16,
                "attn_window": 64,
                "norm_every": 64,
                "init": "spread",
            },
            "steps": 400,
            "batch_size": 16,
            "seq_len": 64,
            "eval_every": 50,
            "checkpoint_every": 200,
            "optimizer": {
                "learning_rate": 4e-3,
                "warmup_steps": 40,
                "weight_decay": 0.1,
                "b2": 0.95,
            },
            "data": {
                "tokenizer": "char",
                "valid_fraction": 0.1,
                "test_fraction": 0.0,
                "eval_tokens": 32768,
            },
        }
    )

"""PRERNK, the unified cell, on the State of the Union speeches, byte by byte.

    python -m train --config=configs/prernk.py --workdir=runs/prernk

Expected time: two and a half to four minutes on two quiet CPU cores, eight on busy ones. Validation
bits per byte (2000-2009): 2.118 after 800 steps, mean of seeds 0 to 2 (2.108 - 2.127); an order-2
byte-Markov model of the same training text has 2.91. See docs/prernk.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Contiguous tracks of text with the recurrent state carried from batch to batch."""
    return ConfigDict(
        {
            "model": "prernk",
            "steps": 800,
            "batch_size": 16,
            "seq_len": 64,
            "eval_every": 200,
            "checkpoint_every": 200,
            "optimizer": {
                "learning_rate": 4e-3,
                "warmup_steps": 20,
                "weight_decay": 0.01,
            },
            "data": {
                "piece_tokens": 2048,
            },
        }
    )

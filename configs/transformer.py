"""A transformer on the State of the Union speeches, byte by byte.

The data and the budget of configs/prernk.py.

    python -m train --config=configs/transformer.py --workdir=runs/transformer

Time and score: 2.783 validation bits per byte after 800 steps (819,200 bytes, seed 0), with 150 s
of training on two CPU cores beside another job (Python 3.11, jax 0.10.2). The learning rate is that
of the others; it was not tuned for attention.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Contiguous tracks of text with its KV cache carried from batch to batch."""
    return ConfigDict(
        {
            "model": "transformer",
            "model_config": {
                "width": 192,
                "num_layers": 4,
                "window": 256,
            },
            "steps": 800,
            "batch_size": 16,
            "seq_len": 64,
            "eval_every": 200,
            "checkpoint_every": 200,
            "optimizer": {
                "learning_rate": 2e-3,
                "warmup_steps": 20,
                "weight_decay": 0.01,
            },
            "data": {
                "piece_tokens": 2048,
            },
        }
    )

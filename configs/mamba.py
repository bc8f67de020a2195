"""Mamba-2 on the State of the Union speeches, byte by byte.

The data and the budget of configs/prernk.py.

    python -m train --config=configs/mamba.py --workdir=runs/mamba
    python -m train --config=configs/mamba.py --workdir=runs/mamba1 --config.model_config.version=1

Time and score: 2.057 validation bits per byte after 800 steps (819,200 bytes, seed 0), in 3.1
minutes, 159 s of them training, on two CPU cores beside another job (Python 3.11, jax 0.10.2).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Contiguous tracks of text with the recurrent state carried from batch to batch."""
    return ConfigDict(
        {
            "model": "mamba",
            "model_config": {
                "version": 2,
                "vocab_size": 0,  # as the tokenizer has: 256 for bytes
                "width": 192,
                "num_layers": 4,
                "l2_wrap": 0.0,
                "remat": False,
                "remat_chunk": 0,  # tokens at a time, for long sequences; 0 = all at once
                "kernel": "xla",  # "pallas": kernels of a TPU's own, much faster there
            },
            "steps": 800,
            "batch_size": 16,
            "seq_len": 64,
            "seed": 0,
            "dtype": "float32",
            "eval_every": 200,
            "checkpoint_every": 200,
            "log_every": 10,
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 20,
                "weight_decay": 0.01,
                "b1": 0.9,
                "b2": 0.99,
                "clip_norm": 1.0,
            },
            "data": {
                "tokenizer": "byte",
                "mode": "tracks",
                "piece_tokens": 2048,
                "carry_state": True,
                "eval_tokens": 65536,
            },
        }
    )

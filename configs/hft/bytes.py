"""HFT on the State of the Union speeches, byte by byte.

    python -m train --config=configs/hft/bytes.py --workdir=runs/hft
    python -m eval --workdir=runs/hft
    python -m eval.fields --workdir=runs/hft

Time and score: 2.161 validation bits per byte after 1,200 steps (1,228,800 bytes, seed 0), 1,480 s
of training on one of two CPU cores, shared with other jobs (Python 3.13, jax 0.12.0.1), by an
earlier, slower form of the same update; 2.288 after 600 steps by the present one, 618 s.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the config: `hft/base`, 4,096 tensors of 512 inputs and 256 outputs."""
    return ConfigDict(
        {
            "model": "hft",
            "model_config": {},
            "steps": 1200,
            "batch_size": 16,
            "seq_len": 64,
            "eval_every": 300,
            "checkpoint_every": 600,
            "log_every": 20,
            "data": {"piece_tokens": 2048},
        }
    )

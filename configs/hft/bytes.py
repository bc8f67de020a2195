"""HFT on the State of the Union speeches, byte by byte.

python -m train --config=configs/hft/bytes.py --workdir=runs/hft
python -m eval --workdir=runs/hft
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the config of the experiment."""
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

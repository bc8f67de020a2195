"""RWKV-7 on the State of the Union speeches, byte by byte; data and budget of configs/prernk.py.

    python -m train --config=configs/rwkv.py --workdir=runs/rwkv
    python -m train --config=configs/rwkv.py --workdir=runs/rwkv4 --config.model_config.version=4

Time and score: 2.179 validation bits per byte after 800 steps (819,200 bytes, seed 0), in 4.6
minutes, 240 s of them training, on two CPU cores shared with another job (Python 3.11, jax 0.10.2).
"""

from ml_collections import ConfigDict

from configs.common import sotu_bytes


def get_config() -> ConfigDict:
    """Return the config of the experiment."""
    return sotu_bytes("rwkv", width=192, num_layers=4)

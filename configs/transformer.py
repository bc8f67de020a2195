"""A transformer on the State of the Union speeches; data and budget of configs/prernk.py.

    python -m train --config=configs/transformer.py --workdir=runs/transformer

Time and score: 2.783 validation bits per byte after 800 steps (819,200 bytes, seed 0), with 150 s
of training on two CPU cores shared with another job (Python 3.11, jax 0.10.2). The learning rate is
that of the recurrent models; it was not tuned for attention.
"""

from ml_collections import ConfigDict

from configs.common import sotu_bytes


def get_config() -> ConfigDict:
    """Return the config of the experiment; the KV cache is carried from batch to batch."""
    return sotu_bytes("transformer", width=192, num_layers=4, window=256)

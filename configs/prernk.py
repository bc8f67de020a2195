"""PRERNK, the unified cell, on the State of the Union speeches, byte by byte.

    python -m train --config=configs/prernk.py --workdir=runs/prernk

Expected time: two and a half to four minutes on two idle CPU cores, eight on busy ones. Validation
bits per byte (2000-2009): 2.118 after 800 steps, mean of seeds 0 to 2 (2.108 - 2.127); an order-2
byte-Markov model of the same training text has 2.91. See docs/results/prernk.md.
"""

from ml_collections import ConfigDict

from configs.common import sotu_bytes


def get_config() -> ConfigDict:
    """Return the config of the experiment."""
    return sotu_bytes("prernk", learning_rate=4e-3)

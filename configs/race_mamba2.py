"""Mamba-2 on tinyshakespeare, character by character: a recurrent entrant of the race.

    python -m eval.bench race --data input.txt
    python -m train --config=configs/race_mamba2.py --workdir=runs/race --data input.txt

Expected: 159 s on two idle CPU cores, validation 1.541 nats per character, seed 0
(docs/results/cells.md).
"""

from ml_collections import ConfigDict

from configs.common import shakespeare_race


def get_config() -> ConfigDict:
    """Return the config of the entrant."""
    return shakespeare_race("mamba", state_size=32, head_size=32)

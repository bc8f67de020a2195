"""A transformer on tinyshakespeare, character by character: the baseline of the race.

    python -m eval.bench race --data input.txt
    python -m train --config=configs/race_transformer.py --workdir=runs/race --data input.txt

Expected: 172 s on two idle CPU cores, validation 1.574 nats per character, seed 0
(docs/results/cells.md).
"""

from ml_collections import ConfigDict

from configs.common import shakespeare_race


def get_config() -> ConfigDict:
    """Return the config of the entrant; the KV cache is carried from batch to batch."""
    return shakespeare_race("transformer", head_size=32, window=128)

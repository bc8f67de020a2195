"""GroundThink on text mixed with questions about itself, in the four phases of the curriculum.

    python -m train --config=configs/groundthink/identity.py --workdir=runs/identity

Mechanics to 20 % of the steps, reflection to 60 %, identity to 90 %, worldview to the end (G-29 of
docs/systems.md); the rest of each batch is text. The questions are generated; to read your own, set
`data.mixture.<kind>.paths`. Nothing was measured with it yet.
"""

from ml_collections import ConfigDict

from configs.groundthink import cpu

# Share of each kind of question in the phase of its own.
SHARES = {"mechanics": 0.1, "reflection": 0.4, "identity": 0.7, "worldview": 0.5}


def get_config() -> ConfigDict:
    """Return the config: windows of 64 bytes, warm-up by the size of the model."""
    config = cpu.get_config()
    config.optimizer.update({"warmup_steps": 0, "warmup_factor": 3.0})
    config.data.update({"tokenizer": "byte", "mode": "windows"})
    shares = list(SHARES.items())
    mixture = {"text": {"paths": (), "weights": tuple(1.0 - share for _, share in shares)}}
    for number, (kind, share) in enumerate(shares):
        weights = tuple(share if phase == number else 0.0 for phase in range(4))
        mixture[kind] = {"paths": (), "weights": weights, "format": "metacognition"}
        mixture[kind]["kinds"] = (kind,)
    config.data.mixture = ConfigDict(mixture)
    return config

"""A trained model of State of the Union speeches, tuned on other text.

    python -m train --config=configs/rwkv.py --workdir=runs/base
    python -m train --config=configs/tune.py --workdir=runs/state --config.tune.base=runs/base \
        --config.tune.kind=state --config.optimizer.learning_rate=1e-1 --data shakespeare.txt
    python -m train --config=configs/tune.py --workdir=runs/lora --config.tune.base=runs/base \
        --config.tune.kind=lora --config.optimizer.learning_rate=1e-3 --data shakespeare.txt
    python -m eval --workdir=runs/lora

Full fine-tuning at equal steps, for comparison: the base's config, with `init_from` instead of
`tune.base`. `RATES` are the learning rates to choose among, each by validation. Rows are windows,
each from the initial state, so that every row teaches it.
"""

from typing import Any

from ml_collections import ConfigDict

RATES = {
    "state": (3e-2, 1e-1, 3e-1, 1.0),
    "lora": (3e-4, 1e-3, 3e-3, 1e-2),
    "full": (1e-4, 3e-4, 1e-3, 3e-3),
}
STEPS = 400


def recipe() -> dict[str, Any]:
    """Return the fields that all of them share."""
    return {
        "steps": STEPS,
        "batch_size": 16,
        "seq_len": 256,
        "eval_every": 100,
        "checkpoint_every": 100,
        "data": {"mode": "windows", "carry_state": False, "eval_tokens": 0},
    }


def get_config() -> ConfigDict:
    """Return the config of tuning; the base is to be named, and brings the model."""
    return ConfigDict(
        {
            **recipe(),
            "tune": {"kind": "lora", "rank": 8, "alpha": 16.0},
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 20},
        }
    )


def full(config: ConfigDict, base: str) -> ConfigDict:
    """Return the config of full fine-tuning: that of the base's run, from its last weights."""
    config = ConfigDict(config.to_dict())
    config.update(recipe())
    config.init_from = base
    config.optimizer.learning_rate = RATES["full"][1]
    return config

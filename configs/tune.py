"""A model of State of the Union speeches, tuned on other text, e.g. tinyshakespeare's `input.txt`.

    python -m train --config=configs/rwkv.py --workdir=runs/base
    python -m train --config=configs/tune.py --workdir=runs/lora --data input.txt \\
        --config.tune.base=runs/base
    python -m eval --workdir=runs/lora

Against each other and full fine-tuning, at equal steps, each with four learning rates, of which the
best by validation counts; and the base as it is:

    python -m eval.sweep --config=configs/tune.py --workdir=runs/tune --data input.txt
    python -m eval --workdir=runs/base --data input.txt --split valid
"""

from typing import Any

from ml_collections import ConfigDict

from configs.rwkv import get_config as base_config

BASE = "runs/base"
RATES = {
    "state": (3e-1, 1.0, 3.0, 10.0),
    "lora": (1e-3, 3e-3, 1e-2, 3e-2),
    "full": (3e-4, 1e-3, 3e-3, 1e-2),
}


def recipe() -> dict[str, Any]:
    """Return what tuning and full fine-tuning share: rows that start from the initial state."""
    return {
        "steps": 200,
        "batch_size": 8,
        "seq_len": 256,
        "eval_every": 100,
        "checkpoint_every": 100,
        "optimizer": {"warmup_steps": 20},
        "data": {"mode": "windows", "carry_state": False, "eval_tokens": 0},
    }


def get_config() -> ConfigDict:
    """Return the config of tuning; the base is named on the command line, and brings the model."""
    config = ConfigDict(recipe())
    config.tune = ConfigDict({"kind": "lora", "rank": 8, "alpha": 16.0})
    config.optimizer.learning_rate = 1e-3
    return config


def get_sweep() -> dict[str, Any]:
    """Return the comparison; it needs the run `BASE`."""
    tuned = get_config()
    tuned.tune.base = BASE
    full = ConfigDict(base_config().to_dict() | recipe() | {"init_from": BASE})
    entries = {}
    for kind, rates in RATES.items():
        for rate in rates:
            changes: dict[str, Any] = {"optimizer.learning_rate": rate}
            if kind != "full":
                changes["tune.kind"] = kind
            entry: dict[str, Any] = {"changes": changes, "says": f"{kind}, learning rate {rate:g}"}
            entries[f"{kind} {rate:g}"] = entry | ({"config": full} if kind == "full" else {})
    return {"config": tuned, "steps": 200, "seeds": (0,), "entries": entries, "questions": {}}

"""PRERNK against a GRU and RWKV-4 at equal parameters and tokens (docs/systems.md, Z-12).

    python -m eval.sweep --config=configs/prernk_baselines.py --workdir=runs/baselines

All read the State of the Union speeches byte by byte, with the recipe of configs/prernk.py, and
have PRERNK's parameters within 5 %. Each is trained at the same four learning rates, so that the
page compares each at its own best. Three seeds of 400 steps: 36 runs of one to two minutes on two
cores. "rates" is one seed, "smoke" two steps of small models.
"""

from typing import Any

from configs.common import choose_preset, entry
from configs.prernk import get_config

# preset -> (steps, seeds)
SIZES = {"cpu": (400, (0, 1, 2)), "rates": (400, (0,)), "smoke": (2, (0,))}
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
USUAL = 4e-3
# name -> (what it is, matched field, its multiple, changes)
MODELS = {
    "PRERNK": ("the unified cell", "", 0, {}),
    "GRU": ("two layers, no MLP", "width", 8, {"model": "stack/gru", "num_layers": 2}),
    "RWKV-4": ("six layers", "width", 8, {"model": "rwkv/4", "num_layers": 6}),
}
SMALL = {"width": 32, "hidden_size": 96, "relation_size": 24, "abstraction_sizes": (96, 48)}


def get_sweep(preset: str = "cpu") -> dict[str, Any]:
    """Return each model at each learning rate; those at the usual one are compared first."""
    steps, seeds = choose_preset(SIZES, preset)
    config = get_config()
    config.update({"eval_every": max(steps // 10, 1), "checkpoint_every": steps, "keep_best": 0})
    config.update({"keep_last": 1})
    if preset == "smoke":
        config.update({"batch_size": 2, "seq_len": 8})
        config.model_config.update(SMALL)
        config.optimizer.warmup_steps = 0
        config.data.eval_tokens = 256
    entries = {}
    for rate in sorted(RATES, key=lambda rate: rate != USUAL):
        for name, (says, match, multiple, changes) in MODELS.items():
            if name == "GRU":
                changes = changes | {"mlp_size": 0}
            title = name if rate == USUAL else f"{name}, {rate:g}"
            group = "baseline" if rate == USUAL else "rates"
            made = entry(group, says, match, **changes, **{"optimizer.learning_rate": rate})
            entries[title] = made | ({"multiple": multiple} if match else {})
    return {
        "config": config,
        "steps": steps,
        "seeds": seeds,
        "entries": entries,
        "questions": {
            "GRU": ("PRERNK", "GRU", "Is PRERNK better than a GRU of its size?"),
            "RWKV-4": ("PRERNK", "RWKV-4", "Is PRERNK better than an RWKV-4 of its size?"),
        },
    }

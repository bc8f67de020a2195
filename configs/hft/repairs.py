"""HFT with one repair of the source taken back at a time (docs/results/hft.md).

    python -m eval.sweep --config=configs/hft/repairs.py --workdir=runs/repairs

"cpu", the default, reads 102,400 bytes in each of three seeds with a field of 2,048 tensors;
"smoke" runs everything in a minute. A fixed step is tried at four rates, since the other step's
rate is none for it.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.common import choose_preset, entry
from configs.hft import bytes as base
from jaxmodels.models.hft.config import PRESETS

STEPS = 100
# name -> (what it is, changes)
REPAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "as written": (
        "all of the source's settings, `hft/as_written`",
        PRESETS["as_written"],
    ),
    "chosen by planes": ("and distance", {"distance": "hybrid_exp", "through_weights": False}),
    "weights held": ("no gradient through the weights", {"through_weights": False}),
    "places held": ("normals and offsets never move", {"geometry_rate": 0.0}),
    "slow places": ("the source's rate of places", {"geometry_rate": 0.003}),
    "random places": ("and columns around 0", {"seeding": "random"}),
    "rounded to nearest": ("float16", {"storage": "float16_nearest"}),
    "float32": ("no rounding", {"storage": "float32"}),
    "temperature 0.8": ("weights almost equal", {"temperature": 0.8}),
    "256 answer": ("instead of 64", {"top_k": 256}),
    "normalized blocks": ("features of unit mean square", {"block_norm": 256}),
    "bigrams alone": ("n-grams", {"ngram_orders": (2,)}),
    "hermite": ("interpolation of columns", {"interpolation": "hermite"}),
    "no relocation": ("", {"relocate_every": 0}),
    "whitened": ("after 20 batches, which teach nothing", {"whiten_after": 20}),
}
FIXED = (0.03, 0.3, 1.0, 3.0)


def get_sweep(preset: str = "cpu") -> dict[str, Any]:
    """Return the sweep, see `eval/sweep/plan.py`."""
    presets = {"cpu": (STEPS, {"tensors": 2048}), "smoke": (4, {"tensors": 256, "width": 256})}
    steps, sizes = choose_preset(presets, preset)
    config = base.get_config()
    config.update({"model_config": ConfigDict(sizes), "eval_every": steps // 2})
    config.checkpoint_every = steps
    config.data.eval_tokens = 32_768 if preset == "cpu" else 2048
    entries = {"base": entry("baseline", "`hft/base` at 2,048 tensors")}
    for name, (says, changes) in REPAIRS.items():
        entries[name] = entry("variant", says, **changes)
    for rate in FIXED:
        changes = {"step": "fixed", "rate": rate}
        entries[f"fixed step {rate:g}"] = entry("variant", "for every column", **changes)
    seeds = (0, 1, 2) if preset == "cpu" else (0,)
    return {"config": config, "steps": steps, "seeds": seeds, "entries": entries}

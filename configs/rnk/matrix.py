"""RNK against other models of bytes, and its parts one by one (docs/systems.md, R-31, R-34).

    python -m eval.sweep --config=configs/rnk/matrix.py --workdir=runs/rates --preset rates
    python -m eval.sweep --config=configs/rnk/matrix.py --workdir=runs/matrix

"rates" tries every learning rate of `RATES` with one seed; "cpu", the default, trains every entry
at its own best rate with three seeds; "smoke" runs everything in minutes. All entries read the same
exchanges and have the parameters of the first within 5 %; those "at its FLOPs" read fewer, so that
their matmuls cost what RNK's do, which runs most of its layers once per chunk. The scores are those
of conversations that no entry has seen. Results: docs/results/rnk.md.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.common import choose_preset, entry
from configs.rnk.chat import get_config

STEPS = 300
SMALL = {"width": 64, "hidden_size": 128, "num_layers": 2}
TINY = {"width": 32, "hidden_size": 48, "num_layers": 1}
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
RATE = "optimizer.learning_rate"

MAMBA = {"model": "mamba", "num_layers": 4, "head_size": 8, "state_size": 32}
GRU = {"model": "stack/gru", "num_layers": 2, "mlp_size": 0}
TRANSFORMER = {"model": "transformer", "num_layers": 4, "width": 72, "head_size": 24, "window": 256}
# name -> (what it is, matched field, its multiple, changes, best rate of RATES)
MODELS = {
    "RNK": ("chunks of 32 bytes, five steps of planning", "", 0, {}, 8e-3),
    "Mamba-2": ("byte by byte", "width", 4, MAMBA, 4e-3),
    "GRU": ("byte by byte", "width", 8, GRU, 8e-3),
    "transformer": ("byte by byte, all of the row in its window", "mlp_size", 8, TRANSFORMER, 8e-3),
    "words": (
        "SpaceByte's patches, Mamba over them, GRU within; no plan",
        "width",
        8,
        {"chunking": "space", "planner": "none", "refine": False},
        8e-3,
    ),
}
# Steps at RNK's FLOPs: multiply-adds per byte of a forward pass in matmuls and recurrences, RNK's
# 0.071 million (0.058 in the decoder; 0.40 per chunk) over 0.412, 0.257, 0.355 and 0.111 million.
SHARE = {"Mamba-2": 0.17, "GRU": 0.27, "transformer": 0.20, "words": 0.63}
SAME_SIZE = ("1 step", "10 steps", "no contrastive loss", "chunks of 8", "word chunks")
PARTS = {
    "no planner": ("no steps: the Mamba's output is the plan", {"planner": "none"}),
    "1 step": ("", {"plan_steps": 1}),
    "10 steps": ("", {"plan_steps": 10}),
    "HRM": ("two nets, 2 x 2 cycles", {"planner": "hrm"}),
    "TRM": ("one net, 2 x 2 cycles", {"planner": "trm"}),
    "no refiner": ("", {"refine": False}),
    "no contrastive loss": ("", {"contrastive_weight": 0.0}),
    "chunks of 8": ("", {"chunk_size": 8}),
    "word chunks": ("", {"chunking": "space"}),
    "learned chunks": ("", {"chunking": "learned"}),
}


def get_sweep(preset: str = "cpu") -> dict[str, Any]:
    """Return the sweep, see `eval/sweep/spec.py`."""
    steps, sizes = choose_preset(
        {"cpu": (STEPS, SMALL), "rates": (STEPS, SMALL), "smoke": (8, TINY)}, preset
    )
    config = get_config()
    config.update({"model_config": ConfigDict(sizes), "eval_every": steps // 4})
    config.checkpoint_every = steps
    config.optimizer.warmup_steps = steps // 10
    config.data.eval_tokens = 131_072
    if preset == "smoke":
        config.update({"batch_size": 2, "seq_len": 192})
    entries = _rates() if preset == "rates" else _comparison(steps)
    seeds = (0,) if preset == "rates" else (0, 1) if preset == "smoke" else (0, 1, 2)
    return {"config": config, "steps": steps, "seeds": seeds, "answers": True, "entries": entries}


def _rates() -> dict[str, Any]:
    return {f"{name}, {rate:g}": _model(name, rate) for name in MODELS for rate in RATES}


def _comparison(steps: int) -> dict[str, Any]:
    entries = {name: _model(name, best) for name, (*_, best) in MODELS.items()}
    for name, share in SHARE.items():
        fewer = max(round(share * steps), 2)
        few = {
            "steps": fewer,
            "eval_every": fewer,
            "checkpoint_every": fewer,
            "optimizer.warmup_steps": fewer // 10,
        }
        entries[f"{name} at its FLOPs"] = _model(name, MODELS[name][-1], **few)
    rate = {RATE: MODELS["RNK"][-1]}
    for name, (says, changes) in PARTS.items():
        match = {} if name in SAME_SIZE else {"match": "width", "multiple": 8}
        entries[name] = entry("variant", says, **changes, **rate) | match
    return entries


def _model(name: str, rate: float, **more: Any) -> dict[str, Any]:
    says, match, multiple, changes, _ = MODELS[name]
    match = {"match": match, "multiple": multiple} if match else {}
    return entry("baseline", says, **changes, **{RATE: rate}, **more) | match

"""The effect of each auxiliary loss of PRERNK, changed one at a time (docs/systems.md, P-25).

    python -m eval.sweep --config=configs/prernk_ablations.py --workdir=runs/ablate

400 steps, three seeds; shorter: --steps 300 --seeds 0. Results: docs/results/prernk.md.
"""

from typing import Any

from configs.prernk import get_config

LABELLED = {
    "data.labels": "relations",
    "symbolic": "cross_entropy",
    "fidelity": "loss",
    "relation_vocab": 256,
    "sparsity": "l1",
}


def get_sweep() -> dict[str, Any]:
    """Return the variants; the first has all losses, ramped up late."""
    config = get_config()
    config.update({"eval_every": 40, "checkpoint_every": 200, "keep_last": 1, "keep_best": 0})
    changes = {
        "all losses, late": LABELLED,
        "all losses, from the start": LABELLED | {"ramp": "constant"},
        "without symbolic": LABELLED | {"symbolic": "none"},
        "without fidelity": LABELLED | {"fidelity": "none"},
        "without sparsity": LABELLED | {"sparsity": "none"},
        "without top-down": LABELLED | {"topdown": False},
        "diagonal read-out": LABELLED | {"gating": "diagonal"},
        "next token only": {"sparsity": "none"},
    }
    return {
        "config": config,
        "steps": 400,
        "seeds": (0, 1, 2),
        "entries": {name: {"changes": fields} for name, fields in changes.items()},
    }

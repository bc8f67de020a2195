"""Relational fidelity of PRERNK's read-outs on relations with known truth (docs/systems.md, P-15).

    python -m eval.sweep --config=configs/prernk_relations.py --workdir=runs/relations

The full read-out, in which slots read each other through the mask, the attention-pooled one, and
the diagonal one of the source. The probe decodes every predicate from the relation tensor and does
not teach it; the symbolic loss does. 600 steps, three seeds: 24 minutes on a busy core. "smoke" is
two steps of one seed. Results: docs/results/prernk.md.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.common import choose_preset

STEPS = {"cpu": 600, "smoke": 2}
MODEL = {
    "width": 16,
    "hidden_size": 64,
    "symbol_slots": 3,
    "role_slots": 3,
    "relation_size": 16,
    "abstraction_sizes": (64, 32),
    "relation_vocab": 7,
    "relations_every": 4,
    "symbolic": "cross_entropy",
    "symbolic_weight": 1.0,
    "fidelity": "probe",
    "fidelity_weight": 1.0,
    "sparsity": "none",
    "ramp": "constant",
}
TASK = {"entities": 3, "values": 4, "questions": 2, "shuffled": False}
MEASURE = {
    "name": "fidelity_accuracy",
    "unit": "% of predicates wrong",
    "best": 1.0,
    "scale": 100.0,
}
UNTAUGHT = {"symbolic": "none"}
ENTRIES = {
    "full": ("slots read each other", {}),
    "pooled": ("attention over slots, query from h", {"pooling": "attention"}),
    "diagonal": ("as in the source", {"gating": "diagonal"}),
    "full, untaught": ("without the symbolic loss", UNTAUGHT),
    "diagonal, untaught": ("without the symbolic loss", UNTAUGHT | {"gating": "diagonal"}),
}


def get_config() -> ConfigDict:
    """Return the base config, the full read-out."""
    return ConfigDict(
        {
            "model": "prernk",
            "model_config": MODEL,
            "steps": 600,
            "batch_size": 32,
            "seq_len": 25,
            "eval_every": 100,
            "checkpoint_every": 600,
            "log_every": 50,
            "keep_best": 0,
            "optimizer": {"learning_rate": 5e-3, "warmup_steps": 20, "weight_decay": 0.01},
            "data": {
                "format": "synthetic",
                "tasks": ("relations",),
                "task_fields": TASK,
                "tokenizer": "ids",
                "labels": "relations",
                "label_slots": MODEL["symbol_slots"],
                "label_roles": MODEL["role_slots"],
                "carry_state": False,
                "eval_tokens": 25_600,
            },
        }
    )


def get_sweep(preset: str = "cpu") -> dict[str, Any]:
    """Return the read-outs, with and without the loss that teaches relations."""
    steps = choose_preset(STEPS, preset)
    config = get_config()
    if preset == "smoke":
        config.update({"batch_size": 2, "eval_every": 1, "checkpoint_every": 2})
        config.optimizer.warmup_steps = 0
        config.data.eval_tokens = 100
    return {
        "config": config,
        "steps": steps,
        "seeds": (0,) if preset == "smoke" else (0, 1, 2),
        "entries": {n: {"says": s, "changes": changes} for n, (s, changes) in ENTRIES.items()},
        "measure": MEASURE,
        "questions": {
            "P-08": ("full", "diagonal", "Does the full read-out decode more than the diagonal?"),
            "pooling": ("pooled", "full", "Does attention over slots decode more than their mean?"),
            "P-12": ("full", "full, untaught", "Does the symbolic loss put relations into R?"),
        },
    }

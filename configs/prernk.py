"""PRERNK, the unified cell, on the State of the Union speeches, byte by byte.

    python -m train --config=configs/prernk.py --workdir=runs/prernk

Expected time: two and a half to four minutes on two quiet CPU cores, eight on busy ones. Validation
bits per byte (2000-2009): 2.118 after 800 steps, mean of seeds 0 to 2 (2.108 - 2.127); an order-2
byte-Markov model of the same training text has 2.91. See docs/prernk.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Contiguous tracks of text with the recurrent state carried from batch to batch."""
    return ConfigDict(
        {
            "model": "prernk",
            "steps": 800,
            "batch_size": 16,
            "seq_len": 64,
            "eval_every": 200,
            "checkpoint_every": 200,
            "optimizer": {
                "learning_rate": 4e-3,
                "warmup_steps": 20,
                "weight_decay": 0.01,
            },
            "data": {
                "piece_tokens": 2048,
            },
        }
    )


def get_ablations() -> dict[str, dict]:
    """What `python -m eval.ablate` compares: a name and the fields it changes."""
    labelled = {
        "data.labels": "relations",
        "model_config.symbolic": "cross_entropy",
        "model_config.fidelity": "loss",
        "model_config.relation_vocab": 256,
        "model_config.sparsity": "l1",
    }
    return {
        "all losses, late": labelled,
        "all losses, from the start": {**labelled, "model_config.ramp": "constant"},
        "without symbolic": {**labelled, "model_config.symbolic": "none"},
        "without fidelity": {**labelled, "model_config.fidelity": "none"},
        "without sparsity": {**labelled, "model_config.sparsity": "none"},
        "without top-down": {**labelled, "model_config.topdown": False},
        "diagonal read-out": {**labelled, "model_config.gating": "diagonal"},
        "next token only": {"model_config.sparsity": "none"},
    }

"""Arithmetic digit by digit: RNK on bytes, characters and BPE, and Mamba-2 (docs/systems.md, R-30).

    python -m eval.sweep --config=configs/rnk/arithmetic.py --workdir=runs/sums --preset rates
    python -m eval.sweep --config=configs/rnk/arithmetic.py --workdir=runs/arithmetic
    python -m train --config=configs/rnk/arithmetic.py --workdir=runs/digits     # bytes alone

"rates" tries every learning rate of `RATES` with one seed; "cpu", the default, trains every entry
at its rate of `MODELS` with three seeds; "smoke" runs everything in minutes. All entries read the
same questions in the same order and have the parameters of the first within 5 %: a vocabulary of
1,024 takes them from the rest of a model. No held-out question has both operands of one of
training.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.common import choose_preset, entry

STEPS = 3000
EXAMPLES = 60_000  # two passes over the training split
VOCABULARY = 1024  # of BPE: the most frequent numbers of two and three digits are one token
SMALL = {"width": 96, "hidden_size": 192, "num_layers": 2}
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
RATE = "optimizer.learning_rate"

MAMBA = {"model": "mamba", "num_layers": 4, "head_size": 32, "state_size": 64}
CHARACTERS = {"data.tokenizer": "char"}
BPE = {"data.tokenizer": "bpe", "data.max_tokens": VOCABULARY}
# name -> (what it is, multiple of the matched width, changes, learning rate)
MODELS = {
    "RNK, bytes": ("a digit is a token of 256", None, {}, 2e-3),
    "RNK, characters": ("a digit is a token of 58", 8, CHARACTERS, 2e-3),
    "RNK, BPE": ("frequent digits in a row are one token", 8, BPE, 2e-3),
    "Mamba-2, bytes": ("no chunks, no plan", 16, MAMBA, 2e-3),
    "Mamba-2, BPE": ("no chunks, no plan", 16, MAMBA | BPE, 2e-3),
}


def get_config() -> ConfigDict:
    """Return the config of the first entry; a row is a chunk of 32 bytes and the answer."""
    return ConfigDict(
        {
            "model": "rnk",
            "model_config": SMALL,
            "steps": STEPS,
            "batch_size": 32,
            "seq_len": 36,
            "eval_every": STEPS // 4,
            "checkpoint_every": STEPS,
            "log_every": 50,
            "optimizer": {
                "learning_rate": MODELS["RNK, bytes"][-1],
                "warmup_steps": STEPS // 10,
                "weight_decay": 0.01,
                "b2": 0.95,
            },
            "data": {
                "format": "chat",
                "corpora": ("arithmetic",),
                "examples": EXAMPLES,
                "digits": 3,
                "carry_state": False,
                "valid_fraction": 0.1,
                "test_fraction": 0.1,
                "eval_tokens": 40_000,
            },
        }
    )


def get_sweep(preset: str = "cpu") -> dict[str, Any]:
    """Return the sweep, see `eval/sweep/spec.py`."""
    presets = {"cpu": (0, 1, 2), "rates": (0,), "smoke": (0, 1)}
    seeds, config, steps = choose_preset(presets, preset), get_config(), STEPS
    if preset == "smoke":
        steps = 8
        config.update({"batch_size": 4, "eval_every": 4, "checkpoint_every": steps})
        config.optimizer.warmup_steps = 0
        config.data.examples = 5000
    entries = {name: _model(name, best) for name, (*_, best) in MODELS.items()}
    if preset == "rates":
        entries = {f"{name}, {rate:g}": _model(name, rate) for name in MODELS for rate in RATES}
    return {"config": config, "steps": steps, "seeds": seeds, "answers": True, "entries": entries}


def _model(name: str, rate: float) -> dict[str, Any]:
    says, multiple, changes, _ = MODELS[name]
    match = {"match": "width", "multiple": multiple} if multiple else {}
    return entry("baseline", says, **changes, **{RATE: rate}) | match

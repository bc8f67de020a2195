"""HRLM on English to Spanish templates: 4,000 pairs, words as tokens, answers in parallel.

    python -m train --config=configs/hrlm/translate.py --workdir=runs/translate
    python -m eval --workdir=runs/translate
    python -m eval.predict --workdir=runs/translate --input "Translate to Spanish: ..."

Other tasks: --config.data.tasks=translation,json_sentence,factual. Scores: docs/results/hrlm.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the config of 2,000 steps; a fifth of the pairs, with unseen slots, is held out.

    The carry holds the states of samples that have not halted.
    """
    return ConfigDict(
        {
            "model": "hrlm",
            "model_config": {
                "width": 128,
                "head_size": 32,
                "high_layers": 1,
                "low_layers": 1,
                "mlp_multiple": 32,
                "halt_max_steps": 4,
                "eval_halt": "adaptive",
                "q_continue": False,  # as in TRM: no second forward pass to estimate it
            },
            "steps": 2000,
            "batch_size": 64,
            "seq_len": 32,
            "eval_every": 200,
            "checkpoint_every": 200,
            "log_every": 20,
            "optimizer": {
                "learning_rate": 2e-3,
                "warmup_steps": 100,
                "weight_decay": 0.1,
                "b2": 0.95,
                "ema_decay": 0.99,
            },
            "data": {
                "format": "task",
                "tasks": ("translation",),
                "examples": 4000,
                "tokenizer": "hybrid",
                "max_tokens": 1000,
                "valid_fraction": 0.1,
                "test_fraction": 0.1,
                "eval_tokens": 8192,
            },
        }
    )


def prefix_ar_config() -> ConfigDict:
    """Return the config at the same sizes, with answers left to right ("hrlm/prefix_ar")."""
    config = get_config()
    config.model = "hrlm/prefix_ar"
    sizes = ("width", "head_size", "high_layers", "low_layers", "mlp_multiple")
    config.model_config = {name: config.model_config[name] for name in sizes}
    return config

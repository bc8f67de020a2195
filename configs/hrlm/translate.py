"""HRLM on English to Spanish templates: 4,000 pairs, words as tokens, answers in parallel.

    python -m train --config=configs/hrlm/translate.py --workdir=runs/translate
    python -m eval --workdir=runs/translate
    python -m eval.predict --workdir=runs/translate --input "Translate to Spanish: ..."

Other tasks: --config.data.tasks=translation,json_sentence,factual. Scores: see docs/hrlm.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A fifth of the pairs is held out by combinations of slots that training never shows."""
    return ConfigDict(
        {
            "model": "hrlm",
            "model_config": {
                "vocab_size": 0,  # as the tokenizer has
                "mode": "nar",
                "width": 128,
                "head_size": 32,
                "high_layers": 1,
                "low_layers": 1,
                "high_cycles": 2,
                "low_cycles": 2,
                "mlp_multiple": 32,
                "halt_max_steps": 4,
                "eval_halt": "adaptive",
                "q_continue": False,  # as TRM: no second forward pass to estimate it
            },
            "steps": 2000,
            "batch_size": 64,
            "seq_len": 32,
            "seed": 0,
            "dtype": "float32",
            "eval_every": 200,
            "checkpoint_every": 200,
            "log_every": 20,
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "weight_decay": 0.1,
                "b1": 0.9,
                "b2": 0.95,
                "clip_norm": 1.0,
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
                "carry_state": True,  # the thoughts of samples that have not halted
                "eval_tokens": 8192,
            },
        }
    )

"""RNK on few clean exchanges for 500 epochs: does it generalize long after it has learned them?

    python -m train --config=configs/rnk/grok.py --workdir=runs/grok

The corpus is chatterbot, 1,770 exchanges to train on. The report plots accuracy on training batches
against validation, and speaks of a delayed generalization only if it measures the jump.
"""

from ml_collections import ConfigDict

EPOCHS, STEPS_PER_EPOCH = 500, 27.66


def get_config() -> ConfigDict:
    """Return the config: a small model, a constant learning rate and strong weight decay."""
    return ConfigDict(
        {
            "model": "rnk",
            "model_config": {"width": 96, "hidden_size": 192, "num_layers": 2},
            "steps": round(EPOCHS * STEPS_PER_EPOCH),
            "batch_size": 64,
            "seq_len": 160,
            "eval_every": 277,  # ten epochs
            "checkpoint_every": 2770,
            "log_every": 28,
            "optimizer": {
                "learning_rate": 1e-3,
                "schedule": "constant",
                "warmup_steps": 100,
                "weight_decay": 1.0,
            },
            "data": {
                "format": "chat",
                "corpora": ("chatterbot",),
                "context_turns": 0,
                "carry_state": False,
                "valid_fraction": 0.1,
                "test_fraction": 0.1,
                "eval_tokens": 0,
            },
        }
    )

"""RNK on conversations: chitchat and chatterbot, prompt and response in at most 256 bytes.

    python -m train --config=configs/rnk/chat.py --workdir=runs/chat
    python -m eval --workdir=runs/chat

Your own conversations, JSON lines (jaxmodels/data/chat/corpora.py): --data alpaca.jsonl. Another
model on the same bytes: --config.model=mamba.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the config: 4,000 steps on 16 exchanges each, sized for half an hour on two CPU cores.

    It is less than one pass over the 74,000 exchanges that fit into a row.
    """
    return ConfigDict(
        {
            "model": "rnk",
            "steps": 4000,
            "batch_size": 16,
            "seq_len": 256,
            "eval_every": 500,
            "checkpoint_every": 500,
            "log_every": 20,
            "optimizer": {
                "learning_rate": 2e-3,
                "warmup_steps": 200,
                "weight_decay": 0.01,
                "b2": 0.95,
            },
            "data": {
                "format": "chat",
                "corpora": ("chitchat", "chatterbot"),
                "context_turns": 3,
                "carry_state": False,
                "eval_tokens": 262_144,
            },
        }
    )

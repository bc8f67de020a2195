"""GroundThink at a size for two CPU cores: 12 layers x 64, the anchor in the middle, characters.

    python -m train --config=configs/groundthink/cpu.py --workdir=runs/ground --data input.txt

The base of the matrix in configs/groundthink/matrix.py; without --data it reads the State of the
Union speeches. Scores: see docs/groundthink.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Contiguous tracks of text with the recurrent state handed from batch to batch."""
    return ConfigDict(
        {
            "model": "groundthink",
            "model_config": {
                "vocab_size": 0,  # as the tokenizer has
                "width": 64,
                "head_size": 16,
                "num_layers": 12,
                "layout": "parallel",
                "attention_layers": None,  # the middle one
                "attn_window": 64,
                "state_dim": 16,
                "mamba_expand": 2,
                "alpha": 0.6,
                "learn_alpha": False,
                "gamma": 0.01,
                "channel_expansion": 3.5,
                "state_norm": "read",
                "state_groups": 4,
                "norm_every": 64,
                "init": "spread",
                "path_norm": True,
                "write_gate": False,
            },
            "steps": 400,
            "batch_size": 16,
            "seq_len": 64,
            "seed": 0,
            "dtype": "float32",
            "eval_every": 50,
            "checkpoint_every": 200,
            "log_every": 10,
            "optimizer": {
                "name": "adamw",
                "learning_rate": 4e-3,
                "schedule": "cosine",
                "warmup_steps": 40,
                "weight_decay": 0.1,
                "b1": 0.9,
                "b2": 0.95,
                "clip_norm": 1.0,
            },
            "data": {
                "tokenizer": "char",
                "mode": "tracks",
                "valid_fraction": 0.1,
                "test_fraction": 0.0,
                "carry_state": True,
                "eval_tokens": 32768,
            },
        }
    )

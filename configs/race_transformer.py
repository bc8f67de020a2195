"""The baseline of the race: a transformer on tinyshakespeare, in the size of nanoGPT's CPU recipe.

    python -m eval.bench race --data input.txt
    python -m train --config=configs/race_transformer.py --workdir=runs/race --data input.txt

Expected time and score: docs/cells.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Shuffled windows of contiguous text; 90 % to train, the rest to validate."""
    return ConfigDict(
        {
            "model": "transformer",
            "model_config": {
                "vocab_size": 0,  # as the tokenizer has
                "width": 128,
                "num_layers": 4,
                "head_size": 32,
                "window": 128,
            },
            "steps": 2000,
            "batch_size": 16,
            "seq_len": 128,
            "seed": 0,
            "eval_every": 100,
            "checkpoint_every": 1000,
            "optimizer": {
                "name": "adamw",
                "learning_rate": 4e-3,
                "schedule": "cosine",
                "final_fraction": 0.02,
                "warmup_steps": 50,
                "weight_decay": 0.1,
                "b1": 0.9,
                "b2": 0.99,
                "clip_norm": 1.0,
            },
            "data": {
                "tokenizer": "byte",
                "mode": "tracks",
                "piece_tokens": 4096,
                "carry_state": True,
                "valid_fraction": 0.1,
                "test_fraction": 0.0,
                "eval_tokens": 16384,
            },
        }
    )

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
            "model_config": {
                "vocab_size": 0,  # as the tokenizer has: 256 for bytes
                "width": 128,
                "hidden_size": 256,
                "symbol_slots": 16,
                "role_slots": 4,
                "relation_size": 64,
                "abstraction_sizes": (256, 128, 64),
                "activation": "gelu",
                "core": "ema",
                "gating": "full",
                "double_softmax": False,
                "topdown": True,
                "exact_gelu": False,
                "dropout": 0.0,
                "input_gain": 2.0,
                "remat_chunk": 0,
                "debug_mode": False,
                "objective": "next_token",
                "regression_size": 1,
                "symbolic": "none",
                "fidelity": "none",
                "relation_vocab": 0,
                "relations_every": 16,
                "sparsity": "l1",
                "abstraction_heads": (),
                "abstraction_vocab": 0,
                "symbolic_weight": 0.1,
                "sparsity_weight": 0.001,
                "heads_weight": 0.1,
                "fidelity_weight": 0.1,
                "ramp": "linear",
                "ramp_start": 0.6,
            },
            "steps": 800,
            "batch_size": 16,
            "seq_len": 64,
            "seed": 0,
            "dtype": "float32",
            "eval_every": 200,
            "checkpoint_every": 200,
            "log_every": 10,
            "optimizer": {
                "name": "adamw",
                "learning_rate": 4e-3,
                "schedule": "cosine",
                "warmup_steps": 20,
                "weight_decay": 0.01,
                "b1": 0.9,
                "b2": 0.99,
                "clip_norm": 1.0,
            },
            "data": {
                "tokenizer": "byte",
                "mode": "tracks",
                "piece_tokens": 2048,
                "carry_state": True,
                "eval_tokens": 65536,
            },
        }
    )

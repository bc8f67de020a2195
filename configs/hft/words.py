"""HFT on the State of the Union speeches, word by word: 4,096 words, and one token for the others.

    python -m train --config=configs/hft/words.py --workdir=runs/words
    python -m eval.fields --workdir=runs/words --examples=307200 --heads softmax knn

Time and score: 8.09 validation bits per word after 120 steps (122,880 words, seed 0), 172 s with
five evaluations, on one of two CPU cores, shared with other jobs (Python 3.13, jax 0.12.0.1).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the config: 2,048 tensors of 512 inputs and 4,098 outputs, the padding token's too."""
    return ConfigDict(
        {
            "model": "hft",
            "model_config": {
                "vocab_size": 4098,
                "window": 8,
                "ngram_orders": (1, 2, 3, 4),
                "tensors": 2048,
                "top_k": 32,
            },
            "steps": 300,
            "batch_size": 16,
            "seq_len": 64,
            "eval_every": 100,
            "checkpoint_every": 300,
            "log_every": 20,
            "data": {
                "tokenizer": "word",
                "max_tokens": 4098,
                "piece_tokens": 512,
                "eval_tokens": 32768,
            },
        }
    )

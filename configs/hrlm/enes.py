"""HRLM on real English-Spanish pairs (TSV files); answers are generated left to right.

    python -m train --config=configs/hrlm/enes.py --workdir=runs/enes --data pairs/*.tsv
    python -m eval --workdir=runs/enes

5 % of the pairs are held out by their English side. Scores: docs/results/hrlm.md.
"""

from ml_collections import ConfigDict

from configs.hrlm import translate


def get_config() -> ConfigDict:
    """Return a config of "hrlm/prefix_ar" (HRM-Text) at a size for two cores; BPE, 2,000 tokens."""
    config = translate.prefix_ar_config()
    config.model_config.update(width=192, high_layers=2, low_layers=2, low_cycles=3)
    config.model_config.mlp_multiple = 64
    config.update({"steps": 4000, "batch_size": 32, "seq_len": 96})
    config.data.update({"format": "pairs", "tasks": (), "tokenizer": "bpe", "max_tokens": 2000})
    config.data.update({"skip_long": True, "valid_fraction": 0.025, "test_fraction": 0.025})
    return config

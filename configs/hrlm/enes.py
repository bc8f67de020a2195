"""HRLM on real English-Spanish pairs (TSV files), left to right after the question.

    python -m train --config=configs/hrlm/enes.py --workdir=runs/enes --data pairs/*.tsv
    python -m eval --workdir=runs/enes

5 % of the pairs are held out by their English side. Scores: see docs/hrlm.md.
"""

from ml_collections import ConfigDict

from configs.hrlm import translate


def get_config() -> ConfigDict:
    """The preset "hrlm/prefix_ar" (HRM-Text) at a size for two cores; BPE of 2,000 pieces."""
    config = translate.get_config()
    config.model = "hrlm/prefix_ar"
    config.model_config = ConfigDict(
        {
            "vocab_size": 0,
            "width": 192,
            "head_size": 32,
            "high_layers": 2,
            "low_layers": 2,
            "high_cycles": 2,
            "low_cycles": 3,
            "mlp_multiple": 64,
        }
    )
    config.update({"steps": 4000, "batch_size": 32, "seq_len": 96})
    config.data.update(
        {
            "format": "pairs",
            "tasks": (),
            "tokenizer": "bpe",
            "max_tokens": 2000,
            "skip_long": True,
            "valid_fraction": 0.025,
            "test_fraction": 0.025,
        }
    )
    return config

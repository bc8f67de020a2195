"""HRLM and two transformers on real English-Spanish pairs: equal tokens, same loop and tokenizer.

    python -m eval.sweep --config=configs/hrlm/compare_enes.py --workdir=runs/compare_enes
                         --seeds 0 --data pairs/*.tsv

A step of HRLM runs 8 calls of two blocks and the gradient goes through 5 of them: (16 + 2 x 10) / 3
blocks, each read and learned once, cost the same. (An answer costs HRLM 16 blocks a token instead
of 12.) Results: see docs/hrlm.md.
"""

from typing import Any

from configs.hrlm.enes import get_config

PLAIN = {"recurrent": False}


def get_sweep() -> dict[str, Any]:
    """Return the runs, the share of wrong answers as their measure."""
    return {
        "config": get_config(),
        "seeds": (0, 1, 2),
        "entries": {
            "hrlm": {},
            "transformer, equal parameters": {"changes": PLAIN},
            "transformer, equal FLOPs": {"changes": PLAIN | {"low_layers": 10}},
            "hrlm, causal": {"changes": {"causal": True}},
        },
        "measure": {"name": "exact", "unit": "% of answers wrong", "best": 1.0, "scale": 100.0},
        "answers": True,
    }

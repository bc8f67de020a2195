"""HRLM and two transformers on real English-Spanish pairs: same tokens, loop and tokenizer.

    python -m eval.sweep --config=configs/hrlm/compare_enes.py --workdir=runs/compare_enes
                         --seeds 0 --data pairs/*.tsv

A training step of HRLM makes 8 calls of two blocks, with gradients through 5 of them: as much as
(16 + 2 x 10) / 3 = 12 blocks of a transformer. (Generation costs HRLM 16 blocks per token instead
of 12.) Results: docs/results/hrlm.md.
"""

from typing import Any

from configs.common import wrong
from configs.hrlm.enes import get_config

PLAIN = {"recurrent": False}


def get_sweep() -> dict[str, Any]:
    """Return the runs, measured by the percentage of wrong answers."""
    return {
        "config": get_config(),
        "seeds": (0, 1, 2),
        "entries": {
            "hrlm": {},
            "transformer, equal parameters": {"changes": PLAIN},
            "transformer, equal FLOPs": {"changes": PLAIN | {"low_layers": 10}},
            "hrlm, causal": {"changes": {"causal": True}},
        },
        "measure": wrong("answers"),
        "answers": True,
    }

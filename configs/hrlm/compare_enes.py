"""HRLM and two transformers on real English-Spanish pairs: equal tokens, same loop and tokenizer.

    python -m eval.compare --config=configs/hrlm/compare_enes.py --workdir=runs/compare_enes
                           --seeds 0 --data pairs/*.tsv

A step of HRLM runs 8 calls of two blocks and the gradient goes through 5 of them: (16 + 2 x 10) / 3
blocks, each read and learned once, cost the same. (An answer costs HRLM 16 blocks a token instead
of 12.) Results: see docs/hrlm.md.
"""

from typing import Any

ENES = "configs/hrlm/enes.py"
PLAIN = {"model_config.recurrent": False}


def get_comparison() -> dict[str, Any]:
    """Runs: name -> (config file, fields that are other)."""
    runs = {
        "hrlm": (ENES, {}),
        "transformer, equal parameters": (ENES, PLAIN),
        "transformer, equal FLOPs": (ENES, PLAIN | {"model_config.low_layers": 10}),
        "hrlm, causal": (ENES, {"model_config.causal": True}),
    }
    return {"runs": runs}

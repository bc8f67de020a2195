"""The runs behind HRLM's success numbers (SYSTEMS L-70 to L-79), three seeds each.

    python -m eval.compare --config=configs/hrlm/claims.py --workdir=runs/claims

Results: see docs/hrlm.md.
"""

from typing import Any

TRANSLATE, LEVEL1 = "configs/hrlm/translate.py", "configs/hrlm/level1.py"


# The presets whose training step is compiled, with batch and length of the source (L-09 to L-11),
# and the memory in GB of the card that it names for them (L-76).
PRESETS = {
    "hrlm/base": (16, 256, 8),
    "hrlm/intermediate": (32, 512, 16),
    "hrlm/advanced": (64, 1024, 40),
}


def get_comparison() -> dict[str, Any]:
    """Runs: name -> (config file, fields that are other); memory: see `PRESETS`."""
    runs = {
        "translation": (TRANSLATE, {}),
        "1,000 pairs": (TRANSLATE, {"data.examples": 1250}),  # a fifth of them is held out
        "level 1": (LEVEL1, {}),
        "levels 2, 3": (LEVEL1, {"data.tasks": ("grammar", "extraction", "summary")}),
        "4x4 Sudoku": ("configs/hrlm/sudoku4.py", {}),
    }
    return {"runs": runs, "memory": PRESETS}

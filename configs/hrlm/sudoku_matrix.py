"""Ablations of HRM, one part removed at a time, on 4x4 Sudokus (docs/systems.md, L-57).

    python -m eval.sweep --config=configs/hrlm/sudoku_matrix.py --workdir=runs/hrm_matrix --jobs 2

Every entry reads the same puzzles in the same order. The measure is the percentage of validation
puzzles with any wrong cell, after all ACT steps. Results: docs/results/hrlm.md.
"""

from typing import Any

from configs.common import answers_sweep, choose_preset, entry, wrong
from configs.hrlm.sudoku4 import get_config

STEPS = {"cpu": 1000, "smoke": 6}


def get_sweep(preset: str = "cpu") -> dict[str, Any]:
    """Return the base config, entries and questions, at the steps of a preset."""
    plain = {"recurrent": False, "halt_max_steps": 1}
    entries = {
        "hrm": entry("tier1", "H and L of two blocks, 2 x 2 cycles, one-step gradient, ACT of 8"),
        "one net": entry(
            "tier1", "H and L are one net of two wider blocks", "expansion", shared=True
        ),
        "whole cycle": entry("tier1", "gradient through the whole last cycle", grad_calls=3),
        "all cycles": entry("tier1", "gradient through all six calls of a round", grad_calls=6),
        "fixed rounds": entry("tier1", "every puzzle gets 8 rounds", adaptive=False),
        "one round": entry("tier1", "no carry from round to round", halt_max_steps=1),
        "one cycle": entry("tier2", "f_L, then f_H, once", high_cycles=1, low_cycles=1),
        "no augmentation": entry("tier2", "puzzles as they are", **{"data.augment": False}),
        "no average": entry("tier2", "the last weights", **{"optimizer.ema_decay": 0.0}),
        "transformer": entry("tier3", "the four blocks, read once", **plain),
        "transformer, equal FLOPs": entry(
            "tier3", "seven blocks, read once: the work of a round", **plain, low_layers=5
        ),
    }
    questions = {
        "split": ("hrm", "one net", "Does the split in H and L help, at equal parameters?"),
        "cycle": ("whole cycle", "hrm", "Does the gradient of a whole cycle help?"),
        "gradient": ("all cycles", "hrm", "Does the gradient through all calls help?"),
        "halting": ("hrm", "fixed rounds", "Does learned halting help, against fixed rounds?"),
        "rounds": ("hrm", "one round", "Do several rounds help?"),
        "cycles": ("hrm", "one cycle", "Do the cycles within a round help?"),
        "augmentation": ("hrm", "no augmentation", "Does augmentation help?"),
        "average": ("hrm", "no average", "Does averaging the weights help?"),
        "transformer": ("hrm", "transformer", "Is HRM better than a transformer of its size?"),
        "flops": (
            "hrm",
            "transformer, equal FLOPs",
            "Is HRM better than a transformer of equal FLOPs a step?",
        ),
    }
    sweep = answers_sweep(get_config(), choose_preset(STEPS, preset), entries, questions)
    return sweep | {"measure": wrong("puzzles")}

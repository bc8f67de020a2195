"""HRLM on all three tasks of level 1 at once: translation, an object as a sentence, facts.

    python -m train --config=configs/hrlm/level1.py --workdir=runs/level1
    python -m eval --workdir=runs/level1

Levels 2 and 3: --config.data.tasks=grammar,extraction,summary. Scores: see docs/hrlm.md.
"""

from ml_collections import ConfigDict

from configs.hrlm import translate


def get_config() -> ConfigDict:
    """As translation alone, with longer rows; 1,600 pairs of each task, 3,840 of them to learn."""
    config = translate.get_config()
    config.update({"seq_len": 64, "steps": 3000, "eval_every": 300, "checkpoint_every": 300})
    config.data.update({"tasks": ("translation", "json_sentence", "factual"), "examples": 1600})
    return config

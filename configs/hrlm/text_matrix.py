"""PrefixLM (bidirectional over the question) against a causal model, on translation templates.

    python -m eval.sweep --config=configs/hrlm/text_matrix.py --workdir=runs/text_matrix --jobs 2

Every entry reads the same pairs in the same order. The measure is the percentage of unseen
questions whose answer has any wrong token under teacher forcing. Results: docs/results/hrlm.md.
"""

from typing import Any

from configs.common import answers_sweep, choose_preset, entry, wrong
from configs.hrlm.translate import prefix_ar_config

NOISE = {"data.augment": True}
STEPS = {"cpu": 150, "smoke": 6}  # half to nearly all of the answers are right by then


def get_sweep(preset: str = "cpu") -> dict[str, Any]:
    """Return the base config, entries and questions, at the steps of a preset."""
    entries = {
        "prefix": entry("tier1", "the question both ways, the answer left to right"),
        "causal": entry("tier1", "question and answer left to right", causal=True),
        "one call": entry("tier2", "the gradient through the last calls alone", grad_calls=2),
        "noise": entry("tier2", "questions with blanked and swapped tokens", **NOISE),
        "transformer": entry("tier3", "the two blocks, read once", recurrent=False),
        "transformer, causal": entry(
            "tier3", "the two blocks, left to right", recurrent=False, causal=True
        ),
    }
    questions = {
        "prefix": ("prefix", "causal", "Is PrefixLM better than a causal question, in HRLM?"),
        "plain": (
            "transformer",
            "transformer, causal",
            "Is PrefixLM better than a causal question, in a transformer?",
        ),
        "gradient": ("prefix", "one call", "Does the gradient through 5 calls help against 2?"),
        "noise": ("noise", "prefix", "Does noise in the questions help?"),
        "transformer": ("prefix", "transformer", "Is HRLM better than a transformer of its size?"),
    }
    sweep = answers_sweep(prefix_ar_config(), choose_preset(STEPS, preset), entries, questions)
    return sweep | {"measure": wrong("answers")}

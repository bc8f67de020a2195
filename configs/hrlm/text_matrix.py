"""PrefixLM, which reads a question both ways, against a causal model, on translation templates.

    python -m eval.sweep --config=configs/hrlm/text_matrix.py --workdir=runs/text_matrix --jobs 2

Every entry reads the same pairs in the same order; compared is the share of unseen questions whose
answer is wrong in any token, each token predicted from the right ones before it, as in training.
Results: see docs/hrlm.md.
"""

from typing import Any

from configs.hrlm.translate import get_config
from configs.sweep import choose_preset, entry

STEPS = {"cpu": 100, "smoke": 6}  # after 160 nearly all is right


def get_sweep(preset: str = "cpu") -> dict[str, Any]:
    """Return the base, the entries and the questions, at the steps of a preset."""
    config = get_config()
    steps = choose_preset(STEPS, preset)
    config.model = "hrlm/prefix_ar"
    sizes = ("vocab_size", "width", "head_size", "high_layers", "low_layers", "mlp_multiple")
    config.model_config = {name: config.model_config[name] for name in sizes}
    config.optimizer.warmup_steps = steps // 10
    config.update({"eval_every": max(steps // 5, 1), "checkpoint_every": max(steps // 5, 1)})
    config.data.eval_tokens = 0

    entries = {
        "prefix": entry("tier1", "the question both ways, the answer left to right"),
        "causal": entry("tier1", "question and answer left to right", causal=True),
        "one call": entry("tier2", "the gradient through the last calls alone", grad_calls=2),
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
        "transformer": ("prefix", "transformer", "Is HRLM better than a transformer of its size?"),
    }
    return {
        "config": config,
        "steps": steps,
        "seeds": (0, 1, 2),
        "entries": entries,
        "questions": questions,
        "measure": {"name": "exact", "unit": "% of answers wrong", "best": 1.0, "scale": 100.0},
    }

"""The runs behind HRLM's claimed results (docs/systems.md, L-70 to L-79), three seeds each.

    python -m eval.sweep --config=configs/hrlm/claims.py --workdir=runs/claims

Results: docs/results/hrlm.md.
"""

from collections.abc import Iterator
from typing import Any

from configs.hrlm import level1, sudoku4, translate

# Preset -> batch size and length of the source (L-09 to L-11), memory in GB of the GPU that it
# names for it (L-76). Their training steps are compiled to measure memory.
PRESETS = {
    "hrlm/base": (16, 256, 8),
    "hrlm/intermediate": (32, 512, 16),
    "hrlm/advanced": (64, 1024, 40),
}
NOTE = (
    "Not measured: the hours of L-76 (no such GPUs here); fluency and coherence of L-78, which "
    "templates cannot show; transfer to new tasks of L-79, and several users at once beyond the "
    "questions per second in batches."
)
EXACT = {"value": "scores.unseen.exact", "scale": 100.0}
BLEU = {"value": "scores.unseen.bleu", "aim": 0.7, "form": "{:.3f}"}
CHRF = {"value": "scores.unseen.chrf", "form": "{:.3f}"}
ROUGE = {"value": "scores.unseen.rouge_l", "form": "{:.3f}"}
WHOLE = "{:,.0f}"
STEPS = {"aim": 10_000, "below": True, "form": WHOLE}
UNTIL = "steps until 90 % of validation are exact"
PAIRS = {"value": "training_pairs", "aim": 5000, "below": True, "form": WHOLE}
LAST = {"value": "scores.unseen.exact_last", "scale": 100.0}
LATENCY = {"value": "speed.latency_ms", "aim": 100, "below": True}
SPEED = {"value": "speed.questions_per_second", "aim": 100, "form": WHOLE}
HARDER = {"value": "rounds_against_difficulty", "aim": 0.0}
TEXT, FIRST, MORE, SUDOKU = "translation", "level 1", "levels 2, 3", "4x4 Sudoku"


def claim(row: str, says: str, entry: str, given: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a claim: its row in docs/systems.md, the quantity, and the entry that measures it."""
    return {"row": row, "says": says, "entry": entry, **given, **more}


def _of_task(name: str) -> dict[str, Any]:
    return {"value": f"by_task.{name}.exact", "scale": 100.0}


def _memory_claims() -> Iterator[dict[str, Any]]:
    for preset, (rows, length, card) in PRESETS.items():
        row, aim = ("L-73", 2.0) if preset == "hrlm/base" else ("L-76", card)
        for key in (preset, f"{preset}, remat"):
            says = f"GB of a training step of {key}, {rows} x {length}"
            found = {"value": key, "aim": aim, "below": True, "form": "{:.2f}"}
            yield claim(row, says, "compiled", found)


CLAIMS = [
    claim("L-70", "exact on simple translation, %", TEXT, EXACT, aim=90),
    claim("L-70", "the same after all rounds", TEXT, LAST, aim=90),
    *(
        claim("L-70", f"exact on {task}, %", FIRST, _of_task(task), aim=90)
        for task in ("translation", "json_sentence", "factual")
    ),
    claim("L-71", "BLEU, 0 to 1", TEXT, BLEU),
    claim("L-71", "BLEU, 0 to 1", FIRST, BLEU),
    claim("L-72", "training steps", TEXT, STEPS, value="steps"),
    claim("L-72", UNTIL, TEXT, STEPS, value="converged"),
    claim("L-72", UNTIL, FIRST, STEPS, value="converged"),
    claim("L-74", "training pairs", TEXT, PAIRS),
    claim("L-74", "training pairs", FIRST, PAIRS),
    claim("L-74, L-77", "exact, %", "1,000 pairs", EXACT, aim=80),
    claim("L-75", "one question, ms", TEXT, LATENCY),
    claim("L-75", "questions a second", TEXT, SPEED),
    claim("L-77", "rounds against blanks, rank correlation", SUDOKU, HARDER),
    claim("L-77", "exact, %", SUDOKU, EXACT, aim=99),
    claim("L-78", "chrF, 0 to 1", TEXT, CHRF),
    claim("L-78", "ROUGE-L, 0 to 1", TEXT, ROUGE),
    *(
        claim("L-78", f"exact on {task}, %", MORE, _of_task(task))
        for task in ("grammar", "extraction", "summary")
    ),
    claim("L-78", "ROUGE-L, 0 to 1", MORE, ROUGE),
    *_memory_claims(),
]


def get_sweep() -> dict[str, Any]:
    """Return the runs, the claims they test, and the presets to compile."""
    level = level1.get_config()
    tasks = {"data.tasks": ("grammar", "extraction", "summary")}
    return {
        "config": translate.get_config(),
        "seeds": (0, 1, 2),
        "entries": {
            TEXT: {},
            "1,000 pairs": {"changes": {"data.examples": 1250}},  # a fifth of them is held out
            FIRST: {"config": level},
            MORE: {"config": level, "changes": tasks},
            SUDOKU: {"config": sudoku4.get_config()},
        },
        "questions": {},
        "answers": True,
        "claims": CLAIMS,
        "claims_note": NOTE,
        "memory": PRESETS,
    }

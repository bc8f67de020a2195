"""Generated tasks of three levels of difficulty (docs/systems.md, L-35 to L-38), and splits.

Each pair lists the slot values of its template. Splits hold out *combinations* of values, each of
which occurs in training: otherwise no model could know the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jaxmodels.cli import did_you_mean
from jaxmodels.data.pairs.rows import Pair, split_by_key
from jaxmodels.data.random import random_order
from jaxmodels.data.tasks.level1 import factual, json_sentence, seed_translation, translation
from jaxmodels.data.tasks.level23 import extraction, grammar, summary
from jaxmodels.errors import UserError

# Name -> function that yields all pairs in a fixed order.
TASKS = {
    "translation": translation,
    "json_sentence": json_sentence,
    "factual": factual,
    "seed_translation": seed_translation,
    "grammar": grammar,
    "extraction": extraction,
    "summary": summary,
}


def make_task(name: str, count: int, seed: int) -> list[Pair]:
    """Draw `count` pairs of a task without replacement (a task may contain duplicates).

    Raises:
      UserError: unknown task, or it has fewer pairs.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    pairs = list(TASKS[name]())
    if not 1 <= count <= len(pairs):
        raise UserError(f"examples: task {name!r} has {len(pairs):,} pairs, requested {count:,}")
    return [pairs[i] for i in random_order(seed, 1, len(pairs))[:count]]


def split_by_combination(
    pairs: Sequence[Pair], held_out: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Return (train, unseen): no combination on both sides, every slot value in training.

    Args:
      held_out: fraction of the combinations to hold out; fewer where values would be missing.
    """
    if not 0.0 <= held_out < 1.0:
        raise UserError(f"held_out: must be in [0, 1), got {held_out}")
    groups: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        if not pair.combination:
            raise UserError(f"{pair.question[:40]!r} has no slot values (combination)")
        groups.setdefault(pair.combination, []).append(pair)
    combinations = list(groups)
    left = Counter((i, value) for c in combinations for i, value in enumerate(c))
    target = round(held_out * len(combinations))
    unseen: set[tuple[str, ...]] = set()
    for index in random_order(seed, 2, len(combinations)):
        if len(unseen) == target:
            break
        slots = list(enumerate(combinations[index]))
        if all(left[slot] > 1 for slot in slots):
            unseen.add(combinations[index])
            left.subtract(slots)
    # Two combinations may give the same question; it must not be on both sides.
    trained = {p.question for c, members in groups.items() if c not in unseen for p in members}
    held = [p for p in pairs if p.combination in unseen and p.question not in trained]
    return [p for p in pairs if p.combination not in unseen], held


def split_unseen(
    pairs: Sequence[Pair], fraction: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Split held-out pairs so that no combination and no question is in both parts.

    Args:
      fraction: fraction of the combinations in the second part.
    """
    keys = ["\0".join(pair.combination) for pair in pairs]
    first, second = split_by_key(pairs, keys, fraction, seed, use=4)
    questions = {pair.question for pair in second}
    return [pair for pair in first if pair.question not in questions], second


def split_by_question(
    pairs: Sequence[Pair], held_out: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Return (train, unseen), split by unique question with all its answers."""
    keys = [pair.question.strip() for pair in pairs]
    return split_by_key(pairs, keys, held_out, seed, use=3)

"""Generated questions of three levels of difficulty (SYSTEMS L-35 to L-38), and their splits.

Each pair says what fills the slots of its template. What is *unseen* is a combination of slots that
training never shows, made of values that it shows: only then can an answer be known at all.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from jaxmodels.cli import did_you_mean
from jaxmodels.data.pairs.rows import Pair, split_by_key
from jaxmodels.data.random import random_order
from jaxmodels.data.tasks.level1 import factual, json_sentence, seed_translation, translation
from jaxmodels.data.tasks.level23 import extraction, grammar, summary
from jaxmodels.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of question.

    Attributes:
      level: 1 to 3.
      every: all its pairs, in a fixed order.
    """

    level: int
    every: Callable[[], Iterable[Pair]]


TASKS = {
    "translation": Task(1, translation),
    "json_sentence": Task(1, json_sentence),
    "factual": Task(1, factual),
    "seed_translation": Task(1, seed_translation),
    "grammar": Task(2, grammar),
    "extraction": Task(2, extraction),
    "summary": Task(3, summary),
}


def make_task(name: str, count: int, seed: int) -> list[Pair]:
    """Draw `count` pairs of a task without replacement (a task may itself hold duplicates).

    Raises:
      UserError: unknown, or it has fewer.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    pairs = list(TASKS[name].every())
    if not 1 <= count <= len(pairs):
        raise UserError(f"examples: task {name!r} has {len(pairs):,} pairs, asked for {count:,}")
    return [pairs[i] for i in random_order(seed, 1, len(pairs))[:count]]


def split_by_combination(
    pairs: Sequence[Pair], held_out: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Return (train, unseen): no combination on both sides, each value of a slot in training.

    Args:
      held_out: share of the combinations to hold out; fewer where their values would be missing.
    """
    if not 0.0 <= held_out < 1.0:
        raise UserError(f"held_out: a share in [0, 1), got {held_out}")
    whole: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        if not pair.combination:
            raise UserError(f"{pair.question[:40]!r} does not say what fills its slots")
        whole.setdefault(pair.combination, []).append(pair)
    combinations = list(whole)
    left = Counter((i, value) for c in combinations for i, value in enumerate(c))
    wanted = round(held_out * len(combinations))
    unseen: set[tuple[str, ...]] = set()
    for place in random_order(seed, 2, len(combinations)):
        if len(unseen) == wanted:
            break
        slots = list(enumerate(combinations[place]))
        if all(left[slot] > 1 for slot in slots):
            unseen.add(combinations[place])
            left.subtract(slots)
    # One question may be told by two combinations; it must not stand on both sides.
    shown = {p.question for c, members in whole.items() if c not in unseen for p in members}
    held = [p for p in pairs if p.combination in unseen and p.question not in shown]
    return [p for p in pairs if p.combination not in unseen], held


def split_unseen(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split held-out pairs in two: no combination and no question is in both.

    share: of the combinations, for the second part.
    """
    keys = ["\0".join(pair.combination) for pair in pairs]
    first, second = split_by_key(pairs, keys, share, seed, use=4)
    shown = {pair.question for pair in second}
    return [pair for pair in first if pair.question not in shown], second


def split_by_question(
    pairs: Sequence[Pair], held_out: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Return (train, unseen), split by unique question; all answers to one stay together."""
    keys = [pair.question.strip() for pair in pairs]
    return split_by_key(pairs, keys, held_out, seed, use=3)

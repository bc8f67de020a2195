"""Pairs of tasks and files together, split into training and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxmodels.cli import did_you_mean
from jaxmodels.data.pairs.files import read_all
from jaxmodels.data.pairs.rows import Pair
from jaxmodels.data.tasks import TASKS, make_task, split_by_combination, split_by_question
from jaxmodels.errors import UserError


def pairs_of_sources(
    sources: Sequence[str],
    *,
    count: int = 1000,
    train_split: float = 0.8,
    seed: int = 0,
    question_prefix: str = "",
) -> tuple[list[Pair], list[Pair], str]:
    """Return (training pairs, test pairs, how they were split in words).

    Tasks are split by unseen combination of what fills their slots. A task with one slot has no
    combinations: its pairs, and those of files, are split by unique question (SYSTEMS 5.3).

    Args:
      sources: names in `TASKS`, files and folders.
      count: pairs of each task.
      train_split: share of the questions to train on (L-34).
      seed: of drawing and splitting.
      question_prefix: put in front of each question of a file.

    Raises:
      UserError: neither a task nor a file, a malformed line, or an empty side.
    """
    if not 0.0 < train_split < 1.0:
        raise UserError(f"train_split: a share between 0 and 1, got {train_split}")
    held = 1.0 - train_split
    train: list[Pair] = []
    test: list[Pair] = []
    ways: list[str] = []
    tasks = [name for name in sources if name in TASKS and not Path(name).exists()]
    for name in tasks:
        pairs = make_task(name, count, seed)
        combines = all(len(pair.combination) > 1 for pair in pairs)
        split = split_by_combination if combines else split_by_question
        ways.append("by unseen combination of slots" if combines else "by unique question")
        for side, part in zip((train, test), split(pairs, held, seed), strict=True):
            side += part
    paths = [name for name in sources if name not in tasks]
    for path in paths:
        # What is no file and looks like a name was perhaps meant as one.
        if not Path(path).exists() and Path(path).name == path and path.isidentifier():
            raise UserError(f"{path}: neither a file nor a task{did_you_mean(path, TASKS)}")
    if paths:
        pairs = read_all(paths, question_prefix)
        ways.append("by unique question")
        parts = split_by_question(pairs, held, seed)
        for side, part in zip((train, test), parts, strict=True):
            side += part
    # A file may repeat what a task asks, or one task what another does.
    shown = {pair.question.strip() for pair in train}
    test = [pair for pair in test if pair.question.strip() not in shown]
    if not (train and test):
        raise UserError(
            f"train_split: {len(train)} pairs to train on and {len(test)} to test; give more "
            "pairs or another share"
        )
    return train, test, " and ".join(dict.fromkeys(ways))

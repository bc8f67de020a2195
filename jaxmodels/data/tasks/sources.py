"""Pairs of tasks and files together, split into training and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxmodels.cli import did_you_mean
from jaxmodels.data.pairs.files import read_all
from jaxmodels.data.pairs.rows import Pair
from jaxmodels.data.tasks import TASKS, make_task, split_by_combination, split_by_question
from jaxmodels.data.unused import LIMIT, Unused
from jaxmodels.errors import UserError


def pairs_of_sources(
    sources: Sequence[str],
    *,
    count: int = 1000,
    train_split: float = 0.8,
    seed: int = 0,
    question_prefix: str = "",
    columns: Sequence[str] = (),
    max_unused: float = LIMIT,
    unused: Unused | None = None,
) -> tuple[list[Pair], list[Pair], str]:
    """Return (training pairs, test pairs, description of the split).

    Tasks are split by unseen combination of slot values. Tasks with one slot have no combinations:
    they and files are split by unique question, since a split by row would leak.

    Args:
      sources: names in `TASKS`, files and folders.
      count: pairs per task.
      train_split: fraction of the questions to train on.
      seed: seed of sampling and splitting.
      question_prefix, columns, max_unused: of files, see `read_all`.
      unused: receives what is not used.

    Raises:
      UserError: neither a task nor a file, a malformed line, or an empty side.
    """
    if not 0.0 < train_split < 1.0:
        raise UserError(f"train_split: must be between 0 and 1, got {train_split}")
    tasks = [name for name in sources if name in TASKS and not Path(name).exists()]
    paths = [name for name in sources if name not in tasks]
    for path in paths:
        # A plain word that is not a file may be a misspelt task.
        if not Path(path).exists() and Path(path).name == path and path.isidentifier():
            raise UserError(f"{path}: neither a file nor a task{did_you_mean(path, TASKS)}")
    parts = [make_task(name, count, seed) for name in tasks]
    if paths:
        limits = {"max_unused": max_unused, "unused": unused}
        parts.append(read_all(paths, question_prefix, columns, **limits))
    train: list[Pair] = []
    test: list[Pair] = []
    ways: list[str] = []
    for pairs in parts:
        combines = all(len(pair.combination) > 1 for pair in pairs)
        split = split_by_combination if combines else split_by_question
        ways.append("by unseen combination of slots" if combines else "by unique question")
        for side, part in zip((train, test), split(pairs, 1.0 - train_split, seed), strict=True):
            side += part
    # Different sources may contain the same question.
    trained = {pair.question.strip() for pair in train}
    unseen = [pair for pair in test if pair.question.strip() not in trained]
    if unused is not None:
        where = ", ".join(sources)
        unused.add("test pairs whose question training has", where, len(test) - len(unseen))
    test = unseen
    if not (train and test):
        raise UserError(
            f"train_split: {len(train)} training and {len(test)} test pairs; give more pairs or "
            "another fraction"
        )
    return train, test, " and ".join(dict.fromkeys(ways))

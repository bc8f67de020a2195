"""Synthetic tasks that test one ability of a cell each: recall, selection, state tracking.

Every task is a frozen dataclass with `vocab_size`, `seq_len`, difficulty fields, `chance` (the
accuracy without reading the row) and

    task.batch(seed, index, batch_size)

which returns inputs int32, targets int32, weights float32 (1 where an answer is scored) and reset
bool (True in column 0), each (batch_size, seq_len) and a function of the arguments alone. `labels`,
of a task that has it, names further fields of its batches and their classes. Train and test use
different seeds. Answers are labels only, of which the inputs show nothing, or, in
`relations`, which is a language, show them after they were asked.

`TASKS` maps a name to its class.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxmodels.cli import choose_from, did_you_mean
from jaxmodels.data.synthetic.arithmetic import Adding, ModularArithmetic
from jaxmodels.data.synthetic.mad import (
    Compression,
    FuzzyRecall,
    InContextRecall,
    Memorization,
    NoisyRecall,
)
from jaxmodels.data.synthetic.recall import MQAR, InductionHeads, Passkey, SelectiveCopying
from jaxmodels.data.synthetic.relations import RelationGrammar
from jaxmodels.data.synthetic.tracking import S5, Parity
from jaxmodels.errors import UserError

TASKS = {
    "mqar": MQAR,
    "selective_copying": SelectiveCopying,
    "induction": InductionHeads,
    "passkey": Passkey,
    "parity": Parity,
    "s5": S5,
    "relations": RelationGrammar,
    "in_context_recall": InContextRecall,
    "fuzzy_recall": FuzzyRecall,
    "noisy_recall": NoisyRecall,
    "memorization": Memorization,
    "compression": Compression,
    "modular_arithmetic": ModularArithmetic,
    "adding": Adding,
}
# The six tasks of MAD (arXiv 2403.17844).
MAD = ("in_context_recall", "fuzzy_recall", "noisy_recall", "selective_copying")
MAD += ("memorization", "compression")


def make_task(name: str, seq_len: int, fields: Mapping[str, Any]) -> Any:
    """Return the task of a name with rows of `seq_len` tokens.

    Raises:
      UserError: no such task, field or type of a value, a value that the task refuses, or rows of
        another length.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    known = {field.name: field.default for field in dataclasses.fields(TASKS[name])}
    for field, value in fields.items():
        if field not in known:
            raise UserError(f"{name} has no field {field!r}{choose_from(known)}")
        default = known[field]
        numbers = isinstance(default, float) and type(value) is int
        if default is not None and type(value) is not type(default) and not numbers:
            raise UserError(f"{name}: {field} must be like its default {default!r}, got {value!r}")
    task = TASKS[name](**({"seq_len": seq_len} if "seq_len" in known else {}) | dict(fields))
    if task.seq_len != seq_len:
        raise UserError(
            f"{name}: its rows have {task.seq_len} tokens, seq_len is {seq_len}: set it to that"
        )
    return task


__all__ = [
    "MAD",
    "MQAR",
    "S5",
    "TASKS",
    "InductionHeads",
    "Parity",
    "Passkey",
    "SelectiveCopying",
    "make_task",
]

"""Synthetic tasks that test one ability of a cell each: recall, selection, state tracking.

Every task is a frozen dataclass with `vocab_size`, `seq_len`, difficulty fields, `chance` (the
accuracy without reading the row) and

    task.batch(seed, index, batch_size)

which returns inputs int32, targets int32, weights float32 (1 where an answer is scored) and reset
bool (True in column 0), each (batch_size, seq_len) and a function of the arguments alone. Train and
test use different seeds. Answers are labels only, of which the inputs show nothing, or, in
`relations`, which is a language, show them after they were asked.

`TASKS` maps a name to its class.
"""

from jaxmodels.data.synthetic.recall import MQAR, InductionHeads, Passkey, SelectiveCopying
from jaxmodels.data.synthetic.relations import RelationGrammar
from jaxmodels.data.synthetic.tracking import S5, Parity

TASKS = {
    "mqar": MQAR,
    "selective_copying": SelectiveCopying,
    "induction": InductionHeads,
    "passkey": Passkey,
    "parity": Parity,
    "s5": S5,
    "relations": RelationGrammar,
}

__all__ = ["MQAR", "S5", "TASKS", "InductionHeads", "Parity", "Passkey", "SelectiveCopying"]

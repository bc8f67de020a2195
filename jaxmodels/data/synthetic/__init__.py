"""Synthetic tasks that ask a cell for one ability each: to recall, to select, to track a state.

Every task is a frozen dataclass with `vocab_size`, `seq_len`, fields of difficulty, `chance` (the
accuracy of an answer given without reading the row) and

    task.batch(seed, index, batch_size)

-> inputs int32, targets int32, weights float32 (1 where an answer is scored), reset bool (True in
column 0), each (batch_size, seq_len) and a function of the arguments alone. Another seed gives
other rows, so train and test are told apart by the seed. An answer is only ever a label: nothing
after a question shows it.

`TASKS` maps a name to its class (SYSTEMS 7.12, Z-13, G-63).
"""

from jaxmodels.data.synthetic.recall import MQAR, InductionHeads, Passkey, SelectiveCopying
from jaxmodels.data.synthetic.tracking import S5, Parity

TASKS = {
    "mqar": MQAR,
    "selective_copying": SelectiveCopying,
    "induction": InductionHeads,
    "passkey": Passkey,
    "parity": Parity,
    "s5": S5,
}

__all__ = ["MQAR", "S5", "TASKS", "InductionHeads", "Parity", "Passkey", "SelectiveCopying"]

"""Propagate an error from one process to all, before the next collective can deadlock.

A process that raises and ends leaves the others in their next collective, where they wait until the
transport gives up, minutes later and without a word about the cause. So whatever may fail in one
process alone (a folder that is occupied or cannot be written, files that only one host has) runs in
`raise_everywhere`, before the collective that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmodels.errors import UserError

LIMIT = 1000  # bytes of a message that travel
Result = TypeVar("Result")


def raise_everywhere(work: Callable[[], Result]) -> Result:
    """Return `work()` if it succeeds in every process; raise in all of them if it fails in any.

    Every process has to call this, and `work` must not use collectives.

    Raises:
      UserError: in every process alike, when any of them raised one: the first process's message,
        with the processes it comes from unless all say the same. An error of another kind is raised
        as it is where it happened and is a UserError elsewhere.
    """
    if jax.process_count() == 1:
        return work()
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    known = isinstance(failure, UserError)
    message = "" if failure is None else (known and str(failure)) or repr(failure)
    told = common([_decoded(row) for row in multihost_utils.process_allgather(_encoded(message))])
    if failure is not None and not known:
        raise failure
    if told:
        raise UserError(told) from failure
    return result


def common(messages: Sequence[str]) -> str:
    """One line from what each process says, "" where it has nothing to say; "" if none has."""
    told = [message for message in messages if message]
    if not told:
        return ""
    if len(set(messages)) == 1:
        return told[0]
    of = [str(i) for i, message in enumerate(messages) if message == told[0]]
    return f"process {', '.join(of)} of {len(messages)}: {told[0]}"


def _encoded(message: str) -> np.ndarray:
    """(LIMIT,) uint8: one shape in all processes, as a gather needs it."""
    line = " ".join(message.split()).encode()[:LIMIT]
    return np.frombuffer(line.ljust(LIMIT, b"\0"), np.uint8)


def _decoded(row: np.ndarray) -> str:
    return bytes(np.asarray(row, np.uint8)).rstrip(b"\0").decode(errors="ignore")

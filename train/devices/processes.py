"""Propagate an error from one process to all, before the next collective can deadlock.

A process that exits leaves the others blocked in their next collective until the transport times
out, minutes later, without naming the cause. Work that may fail in one process alone (an occupied
or unwritable folder, files on one host only) therefore runs in `raise_everywhere`.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmodels.errors import UserError

LIMIT = 1000  # bytes of a message that are exchanged
Result = TypeVar("Result")


def raise_everywhere(work: Callable[[], Result]) -> Result:
    """Return `work()` if it succeeds in every process; raise in all of them if it fails in any.

    Every process must call this, and `work` must not use collectives.

    Raises:
      UserError: in every process, if any raised one, with `common`'s message. Other exceptions are
        raised unchanged where they occurred and as UserError in the other processes.
    """
    if jax.process_count() == 1:
        return work()
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    expected = isinstance(failure, UserError)
    message = "" if failure is None else (expected and str(failure)) or repr(failure)
    line = common([_decoded(row) for row in multihost_utils.process_allgather(_encoded(message))])
    if failure is not None and not expected:
        raise failure
    if line:
        raise UserError(line) from failure
    return result


def common(messages: Sequence[str]) -> str:
    """Return the first error of the processes, with their numbers unless it is all of them.

    `messages` has an entry for each process, "" without an error; so is the result if none has one.
    """
    first = next(filter(None, messages), "")
    if len(set(messages)) == 1 or not first:
        return first
    sources = [str(i) for i, message in enumerate(messages) if message == first]
    return f"process {', '.join(sources)} of {len(messages)}: {first}"


def _encoded(message: str) -> np.ndarray:
    """Encode as uint8 (LIMIT,): an all-gather needs the same shape in all processes."""
    line = " ".join(message.split()).encode()[:LIMIT]
    return np.frombuffer(line.ljust(LIMIT, b"\0"), np.uint8)


def _decoded(row: np.ndarray) -> str:
    return bytes(np.asarray(row, np.uint8)).rstrip(b"\0").decode(errors="ignore")

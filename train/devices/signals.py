"""Stop requests: SIGINT and SIGTERM end a run after the current step, with a checkpoint."""

import signal
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class Signals:
    """Context in which the first SIGINT or SIGTERM requests a stop and a second one kills."""

    def __enter__(self):
        self.received = False
        self.previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def _receive(self, number, frame) -> None:
        del number, frame
        self.received = True
        self._restore_handlers()

    def stop_requested(self, agree_now: bool) -> bool:
        """Return whether to stop after this step.

        Several processes stop only at a step with `agree_now`, which must be the same in all.
        """
        if jax.process_count() == 1:
            return self.received
        if not agree_now:
            return False
        with jax.transfer_guard("allow"):
            return bool(np.any(multihost_utils.process_allgather(np.array(self.received))))

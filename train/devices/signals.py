"""Stop requests: SIGINT, SIGTERM and SIGHUP end a run after the current step, with a checkpoint."""

import signal
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def stop_signals() -> tuple[int, ...]:
    """Return the signals that ask for a stop."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, hangup


class Signals:
    """Context in which the first SIGINT, SIGTERM or SIGHUP requests a stop and a second one kills.

    SIGHUP comes from a terminal that is closed, often twice, and never kills; under nohup it stays
    ignored.
    """

    def __enter__(self):
        self.received = False
        self.previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in stop_signals():
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
        hangups = [n for n in self.previous if n not in (signal.SIGINT, signal.SIGTERM)]
        for ignored in hangups:
            signal.signal(ignored, signal.SIG_IGN)
        kept = {n: self.previous.pop(n) for n in hangups}
        self._restore_handlers()
        self.previous = kept  # restored on exit

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

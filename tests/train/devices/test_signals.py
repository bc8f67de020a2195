"""Signals that ask a run to stop."""

import os
import signal

import pytest

from train.devices.signals import Signals


@pytest.fixture(autouse=True)
def handlers():
    """Restore the handlers that were there."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_requests_a_stop(handlers, number):
    with Signals() as signals:
        assert not signals.stop_requested(True)
        os.kill(os.getpid(), number)
        assert signals.stop_requested(True)
        # A second one kills.
        assert signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]
        # But not that of a closed terminal, which its shell may repeat.
        os.kill(os.getpid(), signal.SIGHUP)
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_nohup_is_respected():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not signals.received
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN

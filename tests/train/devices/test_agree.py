"""What goes wrong in one process ends all of them, with the same line."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import train.devices.processes
from jaxmodels.errors import UserError
from tests.train.corpus import small_text
from tests.train.toy import toy_config
from train.devices.processes import common, raise_everywhere
from train.loop import run


def fails(message, kind=UserError):
    def work():
        raise kind(message)

    return work


@pytest.fixture
def others(monkeypatch):
    """Three emulated processes, this one number 1; the list holds the others' messages."""
    messages = ["", ""]

    def gather(mine):
        theirs = [train.devices.processes._encoded(message) for message in messages]
        return np.stack([theirs[0], mine, theirs[1]])

    monkeypatch.setattr(train.devices.processes.jax, "process_count", lambda: 3)
    monkeypatch.setattr(train.devices.processes.multihost_utils, "process_allgather", gather)
    return messages


def test_success_returns_the_result(others):
    assert raise_everywhere(lambda: 7) == 7


def test_error_of_another_process_is_raised(others):
    others[1] = "no such\nfile"
    with pytest.raises(UserError, match=r"^process 2 of 3: no such file$"):
        raise_everywhere(lambda: 7)


def test_error_of_this_process_is_raised(others):
    with pytest.raises(UserError, match=r"^process 1 of 3: bad$"):
        raise_everywhere(fails("bad"))
    others[:] = ["bad", "worse"]
    with pytest.raises(UserError, match=r"^process 0, 1 of 3: bad$"):
        raise_everywhere(fails("bad"))
    others[:] = ["bad", "bad"]
    with pytest.raises(UserError, match=r"^bad$"):
        raise_everywhere(fails("bad"))


def test_unexpected_error_keeps_its_traceback(others):
    with pytest.raises(ZeroDivisionError):
        raise_everywhere(lambda: 1 / 0)
    others[0] = repr(ZeroDivisionError("division by zero"))
    with pytest.raises(UserError, match="process 0 of 3: ZeroDivisionError"):
        raise_everywhere(lambda: 7)


def test_messages_of_any_length_and_alphabet(others):
    for message in ("x" * 5000, "é" * 700, ""):
        with pytest.raises(UserError):
            raise_everywhere(fails(message))
    assert common(["", "", ""]) == ""


def test_single_process_does_not_communicate(monkeypatch):
    monkeypatch.setattr(train.devices.processes.multihost_utils, "process_allgather", None)
    with pytest.raises(UserError, match=r"^bad$"):
        raise_everywhere(fails("bad"))


SAYS = (
    "process 0 of 2: --workdir=occupied: already holds a run; add --resume to continue it, or name "
    "another folder",
    "process 1 of 2: absent.txt: no such file or folder",
    "process 0 of 2: --workdir=small.txt/run: cannot be written (Not a directory)",
    "process 1 of 2: --workdir=own1: not the folder that process 0 writes to; it must be on a "
    "disk that all hosts share",
)


def test_two_processes_raise_the_same_error(tmp_path):
    """Both processes report four starts that fail in one of them."""
    (tmp_path / "small.txt").write_text(small_text(2000))
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "metrics.jsonl").write_text("")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    root = str(Path(__file__).parents[3])
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "PYTHONPATH": root}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.devices.test_agree", address, str(i)],
            cwd=tmp_path,
            env=os.environ | flags,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=200)[0].splitlines() for process in processes]
    finally:
        for process in processes:
            process.kill()
    for lines in outputs:
        lines = [line for line in lines if not line.startswith("[Gloo]")]
        assert [line.partition(" (working folder")[0] for line in lines] == list(SAYS)


def main(address, process):
    """Four starts, one after the other: none leaves the other process waiting."""
    import jax

    jax.distributed.initialize(address, 2, process)
    for workdir, text in (
        ("occupied", "small.txt"),
        ("new", ("small.txt", "absent.txt")[process]),
        ("small.txt/run", "small.txt"),
        (f"own{process}", "small.txt"),
    ):
        try:
            run(toy_config(data__paths=(text,)), workdir, quiet=True)
        except UserError as error:
            print(error)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

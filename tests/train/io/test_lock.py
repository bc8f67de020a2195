"""One folder, one writer: live, stopped and killed holders, other hosts, no flock."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import filelock
import pytest

from jaxmodels.errors import UserError
from tests.train.holding import held_elsewhere
from train.io import lock
from train.io.lock import one_writer, read_info

HOLDER = """
import sys, time
from train.io.lock import one_writer
with one_writer(sys.argv[1], "python -m train"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def slow_signs(monkeypatch):
    """Watch for a fraction of a second."""
    monkeypatch.setattr(lock, "WATCH", 0.3)
    monkeypatch.setattr(lock, "BEAT", 0.05)


def test_stopped_holders_hold_and_killed_ones_do_not(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "run"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    try:
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        message = (
            f"^--workdir=.*run: in use by python -m train .host .*, pid {process.pid}, started "
        )
        with pytest.raises(UserError, match=message), one_writer(tmp_path / "run", "x"):
            pass
    finally:
        process.kill()
        process.communicate()
    with one_writer(tmp_path / "run", "x"):
        assert read_info(tmp_path / "run/.run.json")["pid"] == os.getpid()
    assert not (tmp_path / "run/.run.json").exists()


def test_a_name_that_is_no_utf8_is_refused_before_hours_of_training(tmp_path):
    """Orbax and tensorstore would end in a traceback at the first checkpoint."""
    with pytest.raises(UserError, match=r"^--workdir: must be UTF-8, its"):
        with one_writer(tmp_path / os.fsdecode(b"caf\xe9"), "x"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_folder_may_be_held_again_by_its_holder(tmp_path):
    with one_writer(tmp_path, "outer") as outer, one_writer(tmp_path, "inner") as inner:
        assert inner is outer
    with held_elsewhere(tmp_path):
        with pytest.raises(UserError, match="in use by python -m train"), one_writer(tmp_path, "x"):
            pass
        with one_writer(tmp_path, "x", role="eval"):  # evaluating a run that is in progress
            pass
        said = []
        with pytest.raises(UserError, match="in use"):
            with one_writer(tmp_path, "x", wait=0.1, say=said.append):
                pass
        assert "waiting for python -m train" in said[0]


def test_an_unused_folder_is_removed(tmp_path):
    with pytest.raises(UserError, match="bad"), one_writer(tmp_path / "a/b", "x"):
        raise UserError("bad")
    assert not (tmp_path / "a").exists()
    with one_writer(tmp_path / "a/b", "x"):
        (tmp_path / "a/b/config.json").write_text("")
    assert (tmp_path / "a/b/config.json").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--workdir=.*file/x: cannot be written \(Not a dir"):
        with one_writer(tmp_path / "file/x", "x"):
            pass


def write_info(path, **changes):
    info = lock.Writer(path, "python -m train")._info() | {"host": "other", "boot": "b"} | changes
    path.write_text(json.dumps(info))


def test_another_host_is_watched(tmp_path, slow_signs, monkeypatch):
    """Where flock does not reach: a sign of life refuses, silence does not."""
    path, said = tmp_path / ".run.json", []
    write_info(path, pid=5)
    with one_writer(tmp_path, "x", say=said.append):
        assert "whether python -m train (host other, pid 5, started 0 s ago) is still" in said[0]
    write_info(path, pid=5)
    moments = iter(range(100))
    monkeypatch.setattr(lock.time, "sleep", lambda _: write_info(path, seen=float(next(moments))))
    with pytest.raises(UserError, match=r"in use by .*host other"), one_writer(tmp_path, "x"):
        pass
    write_info(path, seen=time.time() - 2 * lock.FORGOTTEN)
    said.clear()
    with one_writer(tmp_path, "x", say=said.append):
        assert not said


def test_file_systems_without_flock(tmp_path, slow_signs, monkeypatch):
    def refused(self, **_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    path = tmp_path / ".run.json"
    here = lock.Writer(path, "python -m train")._info()
    path.write_text(json.dumps(here))  # a process that runs: this one
    with pytest.raises(UserError, match="in use by"), one_writer(tmp_path, "x"):
        pass
    path.write_text(json.dumps(here | {"start": "1"}))  # its number, given to another since
    with one_writer(tmp_path, "x"):
        pass


def test_a_holder_that_was_taken_over_ends(tmp_path):
    with one_writer(tmp_path, "x") as writer:
        writer.check()
        write_info(tmp_path / ".run.json", pid=7)
        with pytest.raises(UserError, match=r"taken over by python -m train .host other, pid 7"):
            writer.check()
    assert read_info(tmp_path / ".run.json")["pid"] == 7


def test_signs_of_life(tmp_path, slow_signs):
    with one_writer(tmp_path, "x"):
        first = read_info(tmp_path / ".run.json")["seen"]
        until = time.monotonic() + 5
        while read_info(tmp_path / ".run.json")["seen"] == first and time.monotonic() < until:
            time.sleep(0.02)
        assert read_info(tmp_path / ".run.json")["seen"] > first
    for damaged in ("", "{", "[]", '{"host": 1}'):
        (tmp_path / ".run.json").write_text(damaged)
        assert read_info(tmp_path / ".run.json") == {}


def test_evaluating_a_run_that_may_only_be_read(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    with one_writer(tmp_path, "python -m eval", role="eval") as writer:
        assert writer is None
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied"):
        with one_writer(tmp_path, "python -m train"):
            pass
    with one_writer(tmp_path / "mistyped", "python -m eval", role="eval"):
        pass
    assert not (tmp_path / "mistyped").exists()

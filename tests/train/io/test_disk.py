"""A disk that is full: a small run goes through a failure of each of its writes."""

import errno
import logging
import os
import resource
import sys
import threading
import types

import jax
import pytest

from jaxmodels.errors import DiskError, UserError, disk_remedy
from tests.train.corpus import small_text
from tests.train.toy import toy_config
from train.io import saving
from train.io.checkpoint import saved_steps
from train.io.manifest import find_corruption
from train.loop import run

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Disk:
    """Counts what is written below a folder, and refuses one of the writes.

    An audit hook sees every file that Python opens, renames and every folder that it makes, in all
    threads. It cannot be removed, only disarmed.
    """

    def __init__(self):
        self.folder, self.count, self.refused = "", 0, 0
        sys.addaudithook(self._hook)

    def arm(self, folder, refused=0):
        """Refuse the write of this number, or the first one to a path with this in it."""
        self.folder, self.count, self.refused = str(folder), 0, refused

    def _hook(self, event, arguments):
        if not self.folder or event not in ("open", "os.mkdir", "os.rename"):
            return
        if event == "open" and not (arguments[2] or 0) & WRITING:
            return
        path = str(arguments[0])
        if path.startswith(self.folder):
            self.count += 1
            named = isinstance(self.refused, str) and self.refused in path
            if named or self.count == self.refused:
                self.refused = 0
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


@pytest.fixture(autouse=True)
def hook(monkeypatch):
    """Restore the hook that a run whose disk was full leaves behind."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    yield
    logging.getLogger("absl").removeFilter(saving._not_raised)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Let Orbax's threads wait for seconds, not for minutes, for one that has failed."""
    name = "orbax.checkpoint._src.multihost.multihost._DEFAULT_BARRIER_TIMEOUT"
    monkeypatch.setattr(name, 2)


@pytest.fixture(scope="module")
def disk():
    watched = Disk()
    yield watched
    watched.arm("")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "small.txt"
    text.write_text(small_text(3000))
    return toy_config(
        steps=6,
        checkpoint_every=2,
        eval_every=6,
        log_every=2,
        keep_last=1,
        data__paths=(str(text),),
    )


def train(config, workdir):
    given = config.copy_and_resolve_references()
    return run(given, workdir, resume=True, quiet=True, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def calm(config, disk, tmp_path_factory):
    """An undisturbed run, its result and the number of its writes."""
    workdir = tmp_path_factory.mktemp("calm")
    disk.arm(workdir)
    result = train(config, workdir)
    writes = disk.count
    disk.arm("")
    return workdir, result.digest, writes


def refused(config, workdir, capfd) -> str:
    """Train on a full disk; return the line that it ends with, "" if it did not need the write."""
    before = saved_steps(workdir)
    try:
        train(config, workdir)
        line = ""
    except UserError as error:
        line = str(error)
        assert isinstance(error, DiskError) and "\n" not in line
    out, err = capfd.readouterr()
    # XLA may warn when it loads a program from the cache of the tests.
    err = "".join(line for line in err.splitlines(True) if "cpu_aot_loader" not in line)
    # Without its first folder, tensorstore reports to event loops of Orbax that are closed.
    loud = "Event loop is closed" in err
    assert loud or ("Traceback" not in out + err and err.count("\n") <= 2), out + err
    whole = [s for s in saved_steps(workdir) if not find_corruption(workdir / f"checkpoints/{s}")]
    assert whole or not before  # nothing that was saved is lost
    if "the checkpoint of step" in line:
        assert f"the checkpoint of step {whole[-1]} is whole" in line
    return line


def walk(config, calm, disk, tmp_path, capfd, targets):
    lines = []
    for target in targets:
        disk.arm(tmp_path, target)
        lines.append(refused(config, tmp_path, capfd))
        disk.arm("")
    assert train(config, tmp_path).digest == calm[1]
    assert (tmp_path / "metrics.jsonl").read_bytes() == (calm[0] / "metrics.jsonl").read_bytes()
    return lines


def test_some_writes_refused(config, calm, disk, tmp_path, capfd):
    """Start, first checkpoint, later ones, all in the folder of one run."""
    targets = ["run.json", "metrics.jsonl", "training.orbax-checkpoint-tmp/_METADATA"]
    targets += ["4.orbax-checkpoint-tmp/commit", "6/.manifest"]
    lines = walk(config, calm, disk, tmp_path, capfd, targets)
    go_on = "; free some space and continue with --resume"
    reason, whole = "No space left on device", "the checkpoint of step"
    assert lines == [
        f"{tmp_path}/.run.json: cannot be written ({reason})",
        f"{tmp_path}/metrics.jsonl: cannot be written ({reason})",
        f"{reason} while saving step 2; nothing is saved yet{go_on}",
        f"{reason} while saving step 4; {whole} 2 is whole{go_on}",
        f"{reason} while saving step 6; {whole} 6 is whole{go_on}",  # but for its checksums
    ]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_each_write_refused(config, calm, disk, tmp_path, capfd, part):
    for target in range(1 + part, calm[2] + 1, 8):
        walk(config, calm, disk, tmp_path / str(target), capfd, (target,))


@pytest.mark.parametrize("size", [0, 300, pytest.param(3000, marks=pytest.mark.slow)])
def test_files_cannot_grow(config, calm, tmp_path, capfd, size):
    """`ulimit -f`, which also stops the files that C++ writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(DiskError, match="File too large") as error:
            train(config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err and err.count("\n") <= 2, out + err
    assert "\n" not in str(error.value) and "free some space" not in str(error.value)
    if "nothing is saved" in str(error.value):
        assert "raise the limit on the size of files (ulimit -f) and continue" in str(error.value)
    assert train(config, tmp_path).digest == calm[1]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EMFILE, "raise the limit of open files")],
)
def test_a_remedy_fits_its_reason(number, remedy):
    assert disk_remedy(f"{os.strerror(number)} while saving step 3").startswith(remedy)


def test_callbacks_after_the_end_of_orbax_are_not_told(tmp_path, monkeypatch):
    """tensorstore answers from threads of its own, whose errors nobody can catch."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda x: told.append(str(x.exc_value)))
    before = sys.unraisablehook
    checkpoints = saving.Checkpoints(tmp_path, toy_config(), "text")
    for words in ("Event loop is closed", "another"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(words)))
    assert told == ["another"]
    checkpoints.close()
    assert sys.unraisablehook is before

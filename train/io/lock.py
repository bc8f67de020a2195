"""One folder, one writer: a lock that the system releases when its process ends, however it ends.

    .run.lock    locked by flock (filelock) as long as the process lives, also while it is stopped
    .run.json    who holds it: host, pid, command, since when; rewritten every ten seconds

Where flock reaches is up to the file system. On a local disk it holds between all processes of the
machine, on NFS between all hosts (unless mounted with nolock or local_lock). On a bucket mounted by
FUSE it holds within one host or not at all: between hosts, .run.json decides, whose holder is taken
for dead once it has not changed for WATCH seconds. A run that was stopped for longer than that and
taken over finds out before its next checkpoint and ends.
"""

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import jax

from jaxmodels.cli import utf8, write_json
from jaxmodels.errors import DiskError, UserError, from_os, one_line
from jaxmodels.json_text import decode_json
from jaxmodels.paths import exists, user_path
from train.devices.processes import raise_everywhere

BEAT = 10.0  # seconds between two signs of life
WATCH = 3 * BEAT
FORGOTTEN = 3600.0  # a sign of life of another host older than this is not watched
NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)

# Lock file -> (thread that holds it, Writer).
_held: dict[Path, tuple[int, "Writer | None"]] = {}


class Writer:
    """The holder of a folder.

    Args:
      path: the file that says who holds it.
      command: what it is, for messages of others.
    """

    def __init__(self, path: Path, command: str):
        self.path, self.command, self.since = path, command, time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sign of life", daemon=True)

    def start(self) -> None:
        """Write who holds the folder, and keep writing it.

        Raises:
          UserError: it cannot be written; DiskError: the disk is full.
        """
        write_json(self.path, self._info())
        self._thread.start()

    def check(self) -> None:
        """Raise UserError if another process has taken the folder over."""
        info = read_info(self.path)
        if info and _identity(info) != _identity(self._info()):
            raise UserError(
                f"{self.path.parent}: taken over by {described(info)} while this process was "
                "stopped; it ends here and saves nothing"
            )

    def stop(self) -> None:
        """Remove the file if it is still this process's."""
        self._stop.set()
        self._thread.join()
        if _identity(read_info(self.path)) == _identity(self._info()):
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _info(self) -> dict[str, Any]:
        return {
            "host": socket.gethostname(),
            "boot": _boot(),
            "pid": os.getpid(),
            "start": _start_of(os.getpid()),
            "command": self.command,
            "since": self.since,
            "seen": time.time(),
        }

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            info = read_info(self.path)
            if info and _identity(info) == _identity(self._info()):
                with contextlib.suppress(UserError):  # a full disk: the lock itself still holds
                    write_json(self.path, self._info())


@contextlib.contextmanager
def one_writer(
    workdir: str | Path,
    command: str,
    *,
    role: str = "run",
    option: str = "--workdir",
    wait: float = 0.0,
    say: Callable[[str], None] = print,
) -> Iterator[Writer | None]:
    """Hold a folder, which is made if absent, while the block runs.

    The same thread may hold it several times. A folder that this call made, and in which nothing
    was written, is removed again.

    Args:
      workdir: the folder.
      command: what the process is, for the messages of others, e.g. "python -m train".
      role: what is locked; holders of different roles do not exclude each other. Only "run" makes
        the folder and must be able to write: the others get None if they cannot.
      option: that names the folder on the command line.
      wait: seconds to wait for another holder.
      say: called with what it is waiting for.

    Raises:
      UserError: another process holds the folder, named with host, pid and age; or it cannot be
        written, or is no UTF-8.
    """
    if "://" in str(workdir):
        raise UserError(f"{option}={workdir}: must be a folder on a disk that all hosts share")
    folder = user_path(workdir, f"{option}=").absolute()
    utf8(str(folder), option)  # Orbax stores under no other path
    lock = folder / f".{role}.lock"
    thread, writer = _held.get(lock, (0, None))
    if thread == threading.get_ident():
        yield writer
        return
    made = [path for path in (folder, *folder.parents) if not exists(path, f"{option}=")]
    with contextlib.ExitStack() as stack:
        try:
            if role == "run":
                folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_unused, lock, made)
            writer = Writer(folder / f".{role}.json", command)
            flock = _flock(lock, writer.path, f"{option}={workdir}", wait, say)
            stack.callback(flock.release if flock else lambda: None)
            _refuse_holder(writer.path, f"{option}={workdir}", flock is not None, say)
            writer.start()
            stack.callback(writer.stop)
        except (OSError, DiskError) as error:
            if role == "run":
                if isinstance(error, DiskError):
                    raise
                raise from_os(error, f"{option}={workdir}: cannot be written") from error
            writer = None
        _held[lock] = threading.get_ident(), writer
        stack.callback(_held.pop, lock)
        yield writer


@contextlib.contextmanager
def one_run(workdir: str | Path, command: str = "python -m train") -> Iterator[Writer | None]:
    """Hold a folder in process 0; raise in every process if another run holds it."""
    with contextlib.ExitStack() as stack:

        def enter() -> Writer | None:
            if jax.process_index() != 0:
                return None
            return stack.enter_context(one_writer(workdir, command))

        yield raise_everywhere(enter)


def _flock(lock: Path, info: Path, where: str, wait: float, say) -> filelock.FileLock | None:
    """Lock a file; None if its file system has no locks. Raise UserError if another holds it."""
    flock = filelock.FileLock(lock, thread_local=False, fallback_to_soft=False)
    try:
        try:
            flock.acquire(timeout=0)
        except filelock.Timeout:
            if wait <= 0:
                raise
            say(f"{where}: waiting for {described(read_info(info))}")
            flock.acquire(timeout=wait, poll_interval=0.2)
    except filelock.Timeout as error:  # a TimeoutError, and so an OSError
        raise _refusal(where, _info_of_holder(info)) from error
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        return None
    return flock


def _info_of_holder(path: Path) -> dict[str, Any]:
    """Return who holds a lock; it writes its name a moment after it took the lock."""
    for _ in range(10):
        info = read_info(path)
        if info and (info.get("host") != socket.gethostname() or _start_of(info["pid"])):
            return info
        time.sleep(0.05)
    return {}


def _refuse_holder(path: Path, where: str, locked: bool, say) -> None:
    """Raise UserError if the holder that a file names is alive where a lock does not show it."""
    info = read_info(path)
    same_boot = info.get("boot") == _boot()
    if not info or (same_boot and locked):
        return  # the system has released the lock of a process that is gone
    if same_boot and info["host"] == socket.gethostname():
        if info["start"] and _start_of(info["pid"]) == info["start"]:
            raise _refusal(where, info)
        return
    if time.time() - info["seen"] > FORGOTTEN:
        return
    say(f"{where}: waiting up to {WATCH:.0f} s to see whether {described(info)} is still alive")
    until = time.monotonic() + WATCH
    while time.monotonic() < until:
        time.sleep(min(1.0, WATCH / 10))
        now = read_info(path)
        if not now:
            return
        if now["seen"] != info["seen"]:
            raise _refusal(where, now)


def _refusal(where: str, info: dict[str, Any]) -> UserError:
    return UserError(
        f"{where}: in use by {described(info)}; wait for it, stop it, or name another folder"
    )


def described(info: dict[str, Any]) -> str:
    """Describe a holder: command, host, pid and age."""
    if not info:
        return "another process"
    silent = time.time() - info["seen"]
    seen = f", last seen {_ago(silent)}" if silent > WATCH else ""
    since = _ago(time.time() - info["since"])
    return one_line(
        f"{info['command']} (host {info['host']}, pid {info['pid']}, started {since}{seen})"
    )


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def read_info(path: Path) -> dict[str, Any]:
    """Return who holds a folder, or {} if the file is not there, or is none."""
    try:
        info = decode_json(path.read_text(encoding="utf-8"))
        kinds = {"host": str, "boot": str, "pid": int, "start": str, "command": str}
        kinds |= {"since": float, "seen": float}
        good = all(isinstance(info[name], kind) for name, kind in kinds.items())
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return info if good else {}


def _identity(info: dict[str, Any]) -> tuple:
    return tuple(info.get(name) for name in ("host", "boot", "pid", "start", "since"))


def _boot() -> str:
    """Return what tells this start of this machine from others; "" where the system has no word."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """Return when a process of this machine started, in the system's units; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass  # it is gone, or the system has no /proc
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
    return "running"


def _remove_unused(lock: Path, made: list[Path]) -> None:
    """Remove folders that were made for the lock alone."""
    with contextlib.suppress(OSError):
        if made and [path.name for path in made[0].iterdir()] == [lock.name]:
            lock.unlink()
        for folder in made:
            folder.rmdir()  # fails for one that is in use

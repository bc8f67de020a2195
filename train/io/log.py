"""Logs of a run: metrics.jsonl (exactly repeatable), timing.jsonl, TensorBoard events."""

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from jaxmodels.cli import write_atomically
from jaxmodels.errors import from_os
from jaxmodels.json_text import decode_json
from jaxmodels.tree import flatten

ASIDE = "damaged"  # folder of what is no checkpoint and no line of a log


class RunLog:
    """Writer of a run's logs, active in process 0 only.

    metrics.jsonl is independent of clock and machine: a run that is killed and resumed writes the
    same bytes as an uninterrupted one. Opening drops lines later than `step`, a partial last line
    and the closing line of a finished run.

    Args:
      workdir: run folder.
      step: step at which the run starts or resumes.
      say: called with a message for the user.

    Raises:
      UserError: from every method but `close`, a file cannot be written.
    """

    def __init__(self, workdir: Path, step: int, say: Callable[[str], None] = print):
        self.active = jax.process_index() == 0
        if not self.active:
            return
        truncate_log(workdir / "metrics.jsonl", step, say)
        _cut_partial_line(workdir / "timing.jsonl")
        with contextlib.ExitStack() as opened:
            names = ("metrics.jsonl", "timing.jsonl")
            self._files = [opened.enter_context(_appended(workdir / name)) for name in names]
            opened.pop_all()  # both are open: they stay so
        self._events = _Events(workdir, step, say)
        self._failed = False

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Write a line {"step": ..., "split": ..., name: value, ...}, also to TensorBoard."""
        if self.active:
            self._line(0, {"step": step, "split": split} | values)
            scalars = {f"{split}/{name}": x for name, x in values.items() if isinstance(x, float)}
            self._events.write(step, scalars)

    def stop(self, step: int, reason: str) -> None:
        """Write the step that failed and the reason."""
        if self.active:
            self._line(0, {"step": step, "split": "stop", "reason": reason})

    def final(self, step: int, digest: str, stopped: str = "") -> None:
        """Write a run's last line; `stopped` is the controller's reason for ending it, or empty."""
        if self.active:
            early = {"stopped": stopped} if stopped else {}
            self._line(0, {"final": True, "step": step, "digest": digest} | early)

    def timing(self, values: dict[str, Any]) -> None:
        """Write a line of timing.jsonl."""
        if self.active:
            self._line(1, values)

    def flush(self) -> None:
        """Sync all files to disk: a log must not lag behind its checkpoint."""
        if self.active:
            self._events.flush()
            for file in self._files:
                self._attempt(file, lambda file=file: (file.flush(), os.fsync(file.fileno())))

    def close(self) -> None:
        """Flush and close the files; after a failed write, which was raised, only close them."""
        if not self.active:
            return
        try:
            if not self._failed:
                self.flush()
        finally:
            self._events.close()
            for file in self._files:
                with contextlib.suppress(OSError):  # the line that could not be written
                    file.close()

    def _line(self, index: int, values: dict[str, Any]) -> None:
        file = self._files[index]
        self._attempt(file, lambda: (file.write(json.dumps(values) + "\n"), file.flush()))

    def _attempt(self, file, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as error:
            self._failed = True
            raise from_os(error, f"{file.name}: cannot be written") from error


class _Events:
    """TensorBoard's file, which repeats metrics.jsonl: the run goes on if it cannot be written.

    Without the thread of tensorboardX's `SummaryWriter`, which dies of a full disk and leaves the
    run waiting for it.
    """

    def __init__(self, workdir: Path, step: int, say: Callable[[str], None]):
        self._say, self._given_up = say, False
        # With the process: two starts within a second must not overwrite each other's file.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._attempt(lambda: setattr(self, "_file", RecordWriter(str(workdir / name))))
        self._add(Event(file_version="brain.Event:2"))
        if step:  # TensorBoard hides what was logged later than that
            self._add(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add values by name."""
        for name, value in scalars.items():
            self._add(Event(step=step, summary=scalar(name, value)))

    def flush(self) -> None:
        """Flush the file."""
        self._attempt(lambda: self._file.flush())

    def close(self) -> None:
        """Flush and close the file."""
        self._attempt(lambda: self._file.close())

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._attempt(lambda: self._file.write(event.SerializeToString()))

    def _attempt(self, work: Callable[[], Any]) -> None:
        if self._given_up:
            return
        try:
            work()
        except OSError as error:
            self._given_up = True
            self._say(f"no more TensorBoard events: {error.strerror}; metrics.jsonl has them all")
            with contextlib.suppress(OSError, AttributeError):
                self._file.close()


def _appended(path: Path):
    try:
        return open(path, "a", encoding="utf-8")
    except OSError as error:
        raise from_os(error, f"{path}: cannot be written") from error


def truncate_log(path: Path, step: int, say: Callable[[str], None] = print) -> None:
    """Drop lines after `step`, a partial last line and the closing line of a metrics file.

    Lines that are none of a log, because a disk damaged them or somebody added them by hand, are
    put aside in `damaged/`.
    """
    if not path.exists():
        return
    before, kept, foreign = path.read_bytes(), [], []
    for number, line in enumerate(before.split(b"\n"), 1):
        if (values := as_record(line)) is not None:
            if not values.get("final") and values["step"] <= step:
                kept.append(line + b"\n")
        elif number <= before.count(b"\n"):  # the rest is partial, or nothing
            foreign.append((number, line + b"\n"))
    if foreign:
        _put_aside(path, b"".join(line for _, line in foreign))
        lines = ("line " if len(foreign) == 1 else "lines ") + ", ".join(
            str(number) for number, _ in foreign[:10]
        )
        more = ", ..." if len(foreign) > 10 else ""
        say(f"{path.name}: {lines}{more} damaged or none of this log; put aside in {ASIDE}/")
    if (after := b"".join(kept)) != before:
        write_atomically(path, after)


def keep_log(workdir: Path, step: int, say: Callable[[str], None] = print) -> None:
    """Put a metrics file aside if it reaches `step`, the first that a checkpoint was due at.

    For a run that begins anew because its checkpoints are gone: opening its log drops all lines.
    """
    path = workdir / "metrics.jsonl"
    if jax.process_index() != 0 or not path.exists():
        return
    last = max((values["step"] for values in read_metrics(workdir)), default=0)
    if last >= step:
        _put_aside(path, path.read_bytes())
        say(f"{path.name}: reached step {last}, whose checkpoints are gone; kept in {ASIDE}/")


def _put_aside(path: Path, content: bytes) -> None:
    """Append a part of a file to the one of its name in `damaged/`."""
    aside = path.parent / ASIDE / path.name
    try:
        aside.parent.mkdir(exist_ok=True)
        with open(aside, "ab") as file:
            file.write(content)
    except OSError as error:
        raise from_os(error, f"{aside}: cannot be written") from error


def _cut_partial_line(path: Path) -> None:
    """Cut a last line without its end, so that the next one does not continue it."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_atomically(path, whole)


def as_record(line: bytes | str) -> dict[str, Any] | None:
    """Return the object of a line of metrics.jsonl, or None if it is none: it has a step."""
    try:
        values = decode_json(line)
    except ValueError:
        return None
    step = values.get("step") if isinstance(values, dict) else None
    return values if isinstance(step, int) and not isinstance(step, bool) else None


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl, without damaged ones and a partial last one."""
    lines = (Path(workdir) / "metrics.jsonl").read_bytes().split(b"\n")
    return [values for values in map(as_record, lines) if values is not None]


def float32_repr(value: Any) -> float:
    """Return a float32 scalar as the shortest Python float that reads back as the same float32."""
    return float(str(np.float32(value)))


def digest(state: Any, position: Any, fetch: Callable[[Any], np.ndarray] = jax.device_get) -> str:
    """Return one hex SHA-256 of all arrays of a state (name, dtype, shape, bytes) and the position.

    `fetch` copies a leaf to the host; only one copy is alive at a time.
    """
    total = hashlib.sha256()
    for name, leaf in sorted(flatten(state).items()):
        leaf = np.asarray(fetch(leaf))
        total.update(f"{name}:{leaf.dtype.str}:{leaf.shape};".encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    total.update(json.dumps(position, sort_keys=True).encode())
    return total.hexdigest()

"""Logs of a run: metrics.jsonl (exactly repeatable), timing.jsonl, TensorBoard events."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from jaxmodels.cli import write_atomically
from jaxmodels.tree import flatten


class RunLog:
    """Writer of a run's logs, active in process 0 only.

    metrics.jsonl is independent of clock and machine: a run that is killed and resumed writes the
    same bytes as an uninterrupted one. Opening drops lines later than `step`, a partial last line
    and the closing line of a finished run.
    """

    def __init__(self, workdir: Path, step: int):
        self.active = jax.process_index() == 0
        if not self.active:
            return
        truncate_log(workdir / "metrics.jsonl", step)
        self._metrics = open(workdir / "metrics.jsonl", "a", encoding="utf-8")
        self._timing = open(workdir / "timing.jsonl", "a", encoding="utf-8")
        self._events = SummaryWriter(str(workdir), purge_step=step + 1 if step else None)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Write a line {"step": ..., "split": ..., name: value, ...}, also to TensorBoard."""
        if self.active:
            self._line(self._metrics, {"step": step, "split": split} | values)
            for name, value in values.items():
                if isinstance(value, float):
                    self._events.add_scalar(f"{split}/{name}", value, step)

    def stop(self, step: int, reason: str) -> None:
        """Write the step that failed and the reason."""
        if self.active:
            self._line(self._metrics, {"step": step, "split": "stop", "reason": reason})

    def final(self, step: int, digest: str, stopped: str = "") -> None:
        """Write a run's last line; `stopped` is the controller's reason for ending it, or empty."""
        if self.active:
            early = {"stopped": stopped} if stopped else {}
            self._line(self._metrics, {"final": True, "step": step, "digest": digest} | early)

    def timing(self, values: dict[str, Any]) -> None:
        """Write a line of timing.jsonl."""
        if self.active:
            self._line(self._timing, values)

    def flush(self) -> None:
        """Sync all files to disk: a log must not lag behind its checkpoint."""
        if self.active:
            self._events.flush()
            for stream in (self._metrics, self._timing):
                stream.flush()
                os.fsync(stream.fileno())

    def close(self) -> None:
        """Flush and close the files."""
        if self.active:
            self.flush()
            self._events.close()
            self._metrics.close()
            self._timing.close()

    @staticmethod
    def _line(stream, values: dict[str, Any]) -> None:
        stream.write(json.dumps(values) + "\n")
        stream.flush()


def truncate_log(path: Path, step: int) -> None:
    """Drop lines after `step`, a partial last line and the closing line of a metrics file."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            values = json.loads(line)
        except ValueError:
            break
        if line.endswith(b"\n") and not values.get("final") and values["step"] <= step:
            kept.append(line)
    write_atomically(path, b"".join(kept))


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """Return the complete lines of a run's metrics.jsonl."""
    lines = (Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    values = []
    for line in lines:
        try:
            values.append(json.loads(line))
        except ValueError:
            break  # the run is being written, or was killed
    return values


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

"""What the JSON of a benchmark says beside its numbers, and whether the machine was busy."""

import os
import shlex
import sys
import time
from typing import Any

from eval.log import device_description, versions
from jaxmodels import cli

BUSY = 0.5  # processes that ran besides, on average over a minute


class Record:
    """A benchmark from its start on, where it warns of a busy machine.

    Args:
      name: of the benchmark.
      arguments: of its command.
      timed: whether its numbers depend on what else runs.
    """

    def __init__(self, name: str, arguments: list[str], *, timed: bool = True):
        self.command = shlex.join(["python", "-m", "eval.bench", name, *arguments])
        self.before, self._start = _load(), time.perf_counter()
        if timed and self.before is not None and self.before > BUSY:
            message = "others use this machine: compare ratios of one run, not times of several"
            print(f"warning: {message} (load average {self.before:.1f})", file=sys.stderr)

    def facts(self) -> dict[str, Any]:
        """Return command, versions, device, load averages of a minute and seconds so far."""
        return {
            "command": self.command,
            "versions": versions(),
            "device": device_description(),
            "load_before": self.before,
            "load_after": _load(),
            "wall_seconds": round(time.perf_counter() - self._start, 1),
        }

    def write(self, path: str | None, result: dict[str, Any]) -> None:
        """Write facts and result as JSON, if there is a path."""
        if path:
            cli.write_json(path, self.facts() | result)


def _load() -> float | None:
    """Return the load average of the last minute; None where there is none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None

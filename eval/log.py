"""The log of a run, read without loading the model: config, metrics, timing."""

import contextlib
import math
import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json
from jaxmodels.paths import exists, is_dir, user_path


@dataclass(frozen=True)
class Log:
    """The text files of a run's folder.

    Attributes:
        workdir: the folder.
        config: the experiment's config as plain dicts; {} if `config.json` is missing or broken.
        rows: training and validation lines of metrics.jsonl, in order.
        final: the last line of a finished run, or None.
        stopped: why the run stopped (a value became NaN or Inf), or None.
        control: decisions of the controller: lines with step, action and reason.
        timing: lines of timing.jsonl.
        data: what was read of the data, `data.json`; {} for runs that lack it.
    """

    workdir: Path
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, Any] | None = None
    stopped: str | None = None
    control: list[dict[str, Any]] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Lines on what of the data was not used, or not known to the tokenizer."""
        return [str(note) for note in self.data.get("notes") or ()]

    @property
    def title(self) -> str:
        """The model and the name of the folder."""
        return f"{self.config.get('model', 'run')} · {self.workdir.resolve().name}"

    def settings(self, default: str) -> str:
        """Return the data (`default` if the config names none), batch, seed and dtype as text."""
        config, data = self.config, self.config.get("data", {})
        if not config:
            return "no config.json in this folder"
        source = ", ".join(map(str, data.get("tasks") or data.get("paths") or (default,)))
        return (
            f"{source}, {data.get('tokenizer', 'byte')} tokens · batch {config.get('batch_size')} "
            f"x {config.get('seq_len')} · seed {config.get('seed')} · {config.get('dtype')}"
        )

    @property
    def last_step(self) -> int | None:
        """The last logged step, or None."""
        return max((row["step"] for row in self.rows), default=None)

    def names(self, split: str) -> list[str]:
        """Return the sorted names of a split's metrics."""
        rows = (row for row in self.rows if row["split"] == split)
        return sorted({name for row in rows for name in row} - {"step", "split"})

    def series(self, split: str, name: str) -> tuple[list[int], list[float]]:
        """Return steps and values of one metric."""
        rows = [row for row in self.rows if row["split"] == split and name in row]
        return [row["step"] for row in rows], [float(row[name]) for row in rows]

    def bits_per_byte(self, split: str) -> tuple[list[int], list[float]]:
        """Return steps and bits per byte, which with a byte tokenizer is the main loss / ln 2."""
        steps, values = self.series(split, "bits_per_byte")
        if not values and self.config.get("data", {}).get("tokenizer", "byte") == "byte":
            steps, values = self.series(split, "next_token")
            values = [value / math.log(2) for value in values]
        return steps, values

    def clock(self, name: str) -> list[float]:
        """Return all values of one field of timing.jsonl."""
        return [row[name] for row in self.timing if isinstance(row.get(name), int | float)]

    @property
    def seconds(self) -> float:
        """Seconds of training steps and compilation, without validation and checkpoints."""
        return sum(self.clock("seconds")) + sum(self.clock("compile_seconds"))

    @property
    def bytes_per_second(self) -> float | None:
        """Median training speed over logging intervals, or None."""
        speeds = [speed for speed in self.clock("bytes_per_second") if speed > 0]
        return statistics.median(speeds) if speeds else None


def read_log(workdir: str | Path) -> Log:
    """Read the files that exist of a run.

    Raises:
        UserError: no such folder, or it contains no run.
    """
    workdir = user_path(workdir, "--workdir=")
    if not is_dir(workdir, "--workdir="):
        raise UserError(f"--workdir={workdir}: no such folder; give the folder of a run")
    names = ("config.json", "metrics.jsonl")
    if not any(exists(workdir / name, "--workdir=") for name in names):
        raise UserError(
            f"--workdir={workdir}: holds no run (neither config.json nor metrics.jsonl)"
        )
    lines = [line for line in json_lines(workdir / "metrics.jsonl") if _is_record(line)]
    rows = [line for line in lines if line.get("split") in ("train", "valid")]
    # A stop record counts only as the last line: after it, the run was resumed.
    stop = lines[-1] if lines and lines[-1].get("split") == "stop" else {}
    final = next((line for line in reversed(lines) if line.get("final")), None)
    return Log(
        workdir,
        config=_config(workdir / "config.json"),
        rows=rows,
        final=final,
        stopped=stop.get("reason"),
        control=[line for line in lines if line.get("split") == "control" and _is_decision(line)],
        timing=json_lines(workdir / "timing.jsonl"),
        data=json_object(workdir / "data.json"),
    )


def _config(path: Path) -> dict[str, Any]:
    """Return the config of a run, {} if a group of fields in it is none: the file is broken."""
    config = json_object(path)
    groups = (config.get(name, {}) for name in ("data", "optimizer", "model_config"))
    return config if all(isinstance(group, dict) for group in groups) else {}


@contextlib.contextmanager
def understood(path: str | Path) -> Iterator[None]:
    """Raise UserError where a block cannot make sense of a file that a command has written.

    It is damaged, or another version wrote it.
    """
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: damaged, or written by another version ({type(error).__name__}: {error}); "
            "remove it, or write it again"
        ) from error


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or {} if there is none."""
    try:
        value = decode_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file, without lines that are damaged or incomplete."""
    values = []
    with contextlib.suppress(OSError):
        for line in path.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):
                values.append(decode_json(line))
    return [value for value in values if isinstance(value, dict)]


def _is_record(line: dict[str, Any]) -> bool:
    """Return whether an object is a line of metrics.jsonl, and not, say, a note added by hand."""
    numbers = line.get("split") not in ("train", "valid") or all(
        isinstance(value, int | float) for name, value in line.items() if name != "split"
    )
    return type(line.get("step")) is int and numbers


def _is_decision(line: dict[str, Any]) -> bool:
    return all(isinstance(line.get(name), str) for name in ("action", "reason"))


def json_value(value: Any, path: str) -> Any:
    """Return the value at a dotted path in nested objects, or None if there is none."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def versions() -> dict[str, str]:
    """Return the versions of Python, JAX, jaxlib, Flax and NumPy."""
    import flax
    import jax
    import jaxlib
    import numpy

    modules = (jax, jaxlib, flax, numpy)
    return {"python": platform.python_version()} | {m.__name__: m.__version__ for m in modules}


def device_description() -> str:
    """Describe JAX's devices, e.g. "2 x cpu (x86_64, 2 cores)"."""
    import os

    import jax

    devices = jax.devices()
    cpu = f" ({platform.machine()}, {os.cpu_count()} cores)"
    extra = cpu if devices[0].platform == "cpu" else ""
    return f"{len(devices)} x {devices[0].device_kind}{extra}"

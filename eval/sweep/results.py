"""The raw outcome of a matrix, from the folders of its runs: what `matrix.json` holds."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.log import Log, json_lines, json_object
from eval.sweep.diagnose import DIAGNOSTICS, SAMPLE
from eval.sweep.plan import Matrix

UNITS = {"char": "bits per character", "byte": "bits per byte"}
CURVES = ("next_token", "bits_per_byte", "grad_norm", "answer", "exact")


def measured(log: Log, measure: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """Steps and validation values, lower being better: `measure` of the matrix, or bits.

    Bits are per character where a token is one, else per byte.
    """
    if measure:
        steps, values = log.series("valid", measure["name"])
        return steps, [measure["scale"] * (measure["best"] - value) for value in values]
    if log.config.get("data", {}).get("tokenizer") == "char":
        steps, nats = log.series("valid", "next_token")
        return steps, [value / math.log(2) for value in nats]
    return log.bits_per_byte("valid")


def unit_of(matrix: Matrix) -> str:
    """What `measured` counts."""
    if matrix.measure:
        return matrix.measure["unit"]
    return UNITS.get(matrix.baseline.config.data.tokenizer, "bits per byte")


def collect(matrix: Matrix, runs: Sequence, made: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured, as JSON has it.

    Args:
      matrix: a planned one.
      runs: its runs, as `runs_of` lists them, after `look`.
      made: how: command, versions, device and so on; kept as it is.
    """
    entries = {
        name: {
            "group": entry.group,
            "says": entry.says,
            "changes": entry.changes,
            "match": entry.match,
            "parameters": entry.parameters,
            "tokens": entry.tokens,
            "config": entry.config.to_dict(),
        }
        for name, entry in matrix.entries.items()
    }
    return {
        **made,
        "unit": unit_of(matrix),
        "seeds": list(matrix.seeds),
        "questions": {name: list(question) for name, question in matrix.questions.items()},
        "diagnosis": list(matrix.diagnosis),
        "entries": entries,
        "runs": [_one(run, matrix.measure) for run in runs],
    }


def _one(run, measure: Mapping[str, Any]) -> dict[str, Any]:
    log = run.log()
    steps, values = measured(log, measure)
    sessions = json_lines(run.folder / "sessions.jsonl")
    last = sessions[-1] if sessions else {}
    curves = {}
    for name in log.names("train"):
        if name in CURVES or name.startswith("grad_norm"):
            curves[name] = dict(zip(("steps", "values"), log.series("train", name), strict=True))
    return {
        "entry": run.entry,
        "seed": run.seed,
        "state": run.state,
        "reason": run.reason,
        "step": log.last_step or 0,
        "final": values[-1] if run.state == "finished" and values else None,
        "valid": {"steps": steps, "values": values},
        "train": curves,
        "seconds": round(log.seconds, 1),
        "sessions": len(sessions),
        "cores": last.get("cores"),
        "device": last.get("device"),
        "versions": last.get("versions", {}),
        "digest": (log.final or {}).get("digest", ""),
        "diagnostics": json_object(run.folder / DIAGNOSTICS),
        "sample": _text(run.folder / SAMPLE),
    }


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def of_entry(result: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The runs of an entry, by seed."""
    runs = [run for run in result["runs"] if run["entry"] == name]
    return sorted(runs, key=lambda run: run["seed"])


def by_seed(result: Mapping[str, Any], name: str) -> dict[int, float]:
    """Seed -> the last validation value of an entry's finished run."""
    runs = of_entry(result, name)
    return {run["seed"]: run["final"] for run in runs if run["final"] is not None}


def finals(result: Mapping[str, Any], name: str) -> list[float]:
    """The last validation value of each of an entry's finished runs."""
    return [run["final"] for run in of_entry(result, name) if run["final"] is not None]


def replace(path: Path, text: str) -> None:
    """Writes a file that is whole at any moment, whatever stops the program."""
    whole = path.with_name(path.name + ".new")
    whole.write_text(text, encoding="utf-8")
    whole.replace(path)


def as_json(result: Mapping[str, Any]) -> str:
    """As text, a line a run, so that differences can be read."""
    head = {key: value for key, value in result.items() if key != "runs"}
    text = json.dumps(head, indent=1).removesuffix("\n}")
    runs = ",\n  ".join(json.dumps(run) for run in result["runs"])
    return f'{text},\n "runs": [\n  {runs}\n ]\n}}\n'

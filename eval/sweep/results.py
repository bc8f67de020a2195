"""The outcome of a sweep, from the folders of its runs: what `sweep.json` holds."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.log import Log, json_lines, json_object
from eval.sweep.diagnose import DIAGNOSTICS, SAMPLE
from eval.sweep.plan import Sweep
from eval.sweep.runner import FINISHED, Run

UNITS = {"char": "bits per character", "byte": "bits per byte"}
CURVES = ("next_token", "bits_per_byte", "grad_norm", "answer", "exact")
CONVERGED = 0.9  # exact share of validation that counts as converged (L-70, L-72)
EVALUATION = ("parameters", "training_pairs", "split", "halt", "rounds", "by_task")
EVALUATION += ("by_difficulty", "rounds_against_difficulty", "left_out", "speed")


def measured(log: Log, measure: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """Return steps and validation values, lower being better: `measure` of the sweep, or bits.

    Bits are per character where a token is one, else per byte.
    """
    if measure:
        steps, values = log.series("valid", measure["name"])
        return steps, [measure["scale"] * (measure["best"] - value) for value in values]
    if log.config.get("data", {}).get("tokenizer") == "char":
        steps, nats = log.series("valid", "next_token")
        return steps, [value / math.log(2) for value in nats]
    return log.bits_per_byte("valid")


def unit_of(sweep: Sweep) -> str:
    """Return the unit of the values of `measured`."""
    if sweep.measure:
        return sweep.measure["unit"]
    return UNITS.get(sweep.baseline.config.data.tokenizer, "bits per byte")


def collect(sweep: Sweep, runs: Sequence[Run], made: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that was measured, as JSON.

    Args:
      sweep: a planned one.
      runs: its runs, as `runs_of` lists them, after `look`.
      made: command, versions, device and so on; kept as it is.
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
        for name, entry in sweep.entries.items()
    }
    return {
        **made,
        "unit": unit_of(sweep),
        "seeds": list(sweep.seeds),
        "questions": {name: list(question) for name, question in sweep.questions.items()},
        "diagnosis": list(sweep.diagnosis),
        "entries": entries,
        "runs": [_one(run, sweep.measure) for run in runs],
    }


def _one(run: Run, measure: Mapping[str, Any]) -> dict[str, Any]:
    log = run.log()
    steps, values = measured(log, measure)
    sessions = json_lines(run.folder / "sessions.jsonl")
    last = sessions[-1] if sessions else {}
    curves = {}
    for name in log.names("train"):
        if name in CURVES or name.startswith("grad_norm"):
            curves[name] = dict(zip(("steps", "values"), log.series("train", name), strict=True))
    found = {
        "entry": run.entry,
        "seed": run.seed,
        "state": run.state,
        "reason": run.reason,
        "step": log.last_step or 0,
        "final": values[-1] if run.state == FINISHED and values else None,
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
    return found | ({"evaluation": evaluation(run.folder, log)} if run.answers else {})


def evaluation(folder: Path, log: Log) -> dict[str, Any]:
    """Return how well a run answers questions; {} if that has not been measured."""
    answers = json_object(folder / "answers.json")
    if not answers:
        return {}
    exact = zip(*log.series("valid", "exact"), strict=True)
    found = {key: answers[key] for key in EVALUATION} | {"scores": answers["splits"]}
    found["converged"] = next((step for step, share in exact if share > CONVERGED), None)
    return found | {"steps": log.config["steps"]}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def of_entry(result: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the runs of an entry, by seed."""
    runs = [run for run in result["runs"] if run["entry"] == name]
    return sorted(runs, key=lambda run: run["seed"])


def by_seed(result: Mapping[str, Any], name: str) -> dict[int, float]:
    """Return seed -> the last validation value of an entry's finished run."""
    runs = of_entry(result, name)
    return {run["seed"]: run["final"] for run in runs if run["final"] is not None}


def as_json(result: Mapping[str, Any]) -> str:
    """Return the result as text, a line a run, so that differences can be read."""
    head = {key: value for key, value in result.items() if key != "runs"}
    text = json.dumps(head, indent=1).removesuffix("\n}")
    runs = ",\n  ".join(json.dumps(run) for run in result["runs"])
    return f'{text},\n "runs": [\n  {runs}\n ]\n}}\n'

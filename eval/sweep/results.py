"""Results of a sweep, collected from the folders of its runs: the content of `sweep.json`."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.log import Log, json_lines, json_object, understood
from eval.sweep.diagnose import DIAGNOSTICS, SAMPLE
from eval.sweep.plan import Sweep
from eval.sweep.runner import FINISHED, Run

UNITS = {"char": "bits per character", "byte": "bits per byte"}
CURVES = ("next_token", "bits_per_byte", "grad_norm", "answer", "exact")
CONVERGED = 0.9  # fraction of exact validation answers (docs/systems.md, L-70, L-72)
EVALUATION = ("parameters", "training_pairs", "split", "halt", "rounds", "by_task")
EVALUATION += ("by_difficulty", "rounds_against_difficulty", "left_out", "speed")


def measured(log: Log, measure: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """Return steps and validation values, lower is better: the sweep's `measure`, or else bits.

    Bits are per character with the character tokenizer, else per byte.
    """
    if measure:
        steps, values = log.series("valid", measure["name"])
        return steps, [measure["scale"] * (measure["best"] - value) for value in values]
    if log.config.get("data", {}).get("tokenizer") == "char":
        steps, nats = log.series("valid", "next_token")
        return steps, [value / math.log(2) for value in nats]
    return log.bits_per_byte("valid")


def collect(sweep: Sweep, runs: Sequence[Run], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `sweep.json` without its statistics.

    Args:
      sweep: a planned sweep.
      runs: runs of `runs_of`, after `look`.
      facts: command, versions, device etc., which are copied.
    """
    copied = ("group", "says", "changes", "match", "parameters", "tokens")
    entries = {
        name: {key: getattr(entry, key) for key in copied} | {"config": entry.config.to_dict()}
        for name, entry in sweep.entries.items()
    }
    for name, entry in sweep.entries.items():
        if entry.flops:
            entries[name]["flops"] = entry.flops
    bits = UNITS.get(sweep.baseline.config.data.tokenizer, "bits per byte")
    return {
        **facts,
        "unit": sweep.measure.get("unit", bits),
        "seeds": list(sweep.seeds),
        "questions": {name: list(question) for name, question in sweep.questions.items()},
        "diagnosis": list(sweep.diagnosis),
        "entries": entries,
        "runs": [run_result(run, sweep.measure) for run in runs],
    }


def run_result(run: Run, measure: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a run in `sweep.json`."""
    log = run.log()
    steps, values = measured(log, measure)
    sessions = json_lines(run.folder / "sessions.jsonl")
    last = sessions[-1] if sessions else {}
    sample = run.folder / SAMPLE
    curves = {}
    for name in log.names("train"):
        if name in CURVES or name.startswith("grad_norm"):
            curves[name] = dict(zip(("steps", "values"), log.series("train", name), strict=True))
    result = {
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
        "sample": sample.read_text(encoding="utf-8") if sample.exists() else "",
    }
    if not run.answers:
        return result
    if chat := json_object(run.folder / "chat.json"):
        with understood(run.folder / "chat.json"):
            kept = {name: chat[name] for name in ("parameters", "splits")}
        return result | {"conversation": kept}
    with understood(run.folder / "answers.json"):
        return result | {"evaluation": evaluation(run.folder, log)}


def evaluation(folder: Path, log: Log) -> dict[str, Any]:
    """Return the scores of a run on questions; {} if it was not evaluated."""
    answers = json_object(folder / "answers.json")
    if not answers:
        return {}
    exact = zip(*log.series("valid", "exact"), strict=True)
    scores = {key: answers[key] for key in EVALUATION} | {"scores": answers["splits"]}
    scores["converged"] = next((step for step, value in exact if value > CONVERGED), None)
    return scores | {"steps": log.config["steps"]}


def of_entry(result: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the runs of an entry, sorted by seed."""
    runs = [run for run in result["runs"] if run["entry"] == name]
    return sorted(runs, key=lambda run: run["seed"])


def by_seed(result: Mapping[str, Any], name: str) -> dict[int, float]:
    """Return seed -> final validation value of an entry's finished runs."""
    runs = of_entry(result, name)
    return {run["seed"]: run["final"] for run in runs if run["final"] is not None}


def as_json(result: Mapping[str, Any]) -> str:
    """Serialize the result with one line per run, so that diffs are readable."""
    head = {key: value for key, value in result.items() if key != "runs"}
    text = json.dumps(head, indent=1).removesuffix("\n}")
    runs = ",\n  ".join(json.dumps(run) for run in result["runs"])
    return f'{text},\n "runs": [\n  {runs}\n ]\n}}\n'

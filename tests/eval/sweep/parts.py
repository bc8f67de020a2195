"""Helpers for the tests of sweeps: fake processes, plans and results."""

import json

import numpy as np

from eval.sweep import statistics
from eval.sweep.runner import Run
from tests.eval.conftest import tiny_config
from train.config import to_json


class FakeProcess:
    """Process that ends after `looks` polls, writing the files that a worker writes."""

    def __init__(self, run, looks=1, status=0, events=None):
        self.run, self.looks, self.status = run, looks, status
        self.events = [] if events is None else events
        self.events.append(f"start {run.name}")

    def poll(self):
        self.looks -= 1
        if self.looks > 0:
            return None
        if self.status in (0, 3):
            write_run(self.run, halted=self.status == 3)
        return self.status

    def terminate(self):
        self.events.append(f"terminate {self.run.name}")
        self.looks, self.status = 2, 130

    def kill(self):
        self.events.append(f"kill {self.run.name}")


def write_run(run, halted=False, values=(5.0, 4.0)):
    """Write the files of an ended run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.json").write_text(to_json(run.config))
    rows = [
        {"step": 6 * (i + 1), "split": "valid", "next_token": v * np.log(2), "bits_per_byte": v}
        for i, v in enumerate(values)
    ]
    end = {"final": True, "step": 12, "digest": "d"}
    if halted:
        end = {"step": 7, "split": "stop", "reason": "step 7: loss is not finite"}
    lines = [json.dumps(line) for line in (*rows, end)]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def fake_runs(tmp_path, count=4):
    return [
        Run("entry", seed, tiny_config(seed=seed), tmp_path / str(seed)) for seed in range(count)
    ]


def given_of(entries, questions=None, model="transformer", **fields):
    config = {"model": model, "batch_size": 2, "seq_len": 8, "data": {"tokenizer": "byte"}}
    config["model_config"] = {"width": 32, "num_layers": 2, "head_size": 8, "vocab_size": 0}
    entries = {name: {"group": "tier1", "says": ""} | entry for name, entry in entries.items()}
    given = {"config": config, "steps": 4, "seeds": (0,), "entries": entries}
    return given | {"questions": questions or {}} | fields


def result_of(finals, questions, diagnosis=()):
    entries = {
        name: {"group": "tier1", "says": "", "changes": {}, "match": "", "parameters": 100}
        | {"tokens": 64}
        for name in finals
    }
    runs = [
        {"entry": name, "seed": seed, "final": value, "seconds": 2.0, "step": 12}
        | {"state": "halted" if value is None else "finished", "reason": ""}
        | {
            "valid": {"steps": [6, 12], "values": [5.0, value]},
            "train": {},
            "diagnostics": {},
            "sample": "",
        }
        | {"device": "1 x cpu"}
        for name, values in finals.items()
        for seed, value in enumerate(values)
    ]
    made = {"command": "python", "config": "m.py", "preset": "cpu", "jobs": 1, "device": "cpu"}
    made |= {"versions": {}, "wall_seconds": 1.0, "unit": "bits per character", "seeds": [0, 1, 2]}
    result = {**made, "entries": entries, "runs": runs, "questions": questions}
    result["diagnosis"] = list(diagnosis)
    return statistics.answered(result)

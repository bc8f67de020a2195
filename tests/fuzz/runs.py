"""What is fuzzed of a run's folder: its log, its results, its checkpoints, its lock.

Damage to a log or a checkpoint is never a reason to stop, and never a reason to lose what is whole.
"""

import contextlib
import functools
import json
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from hypothesis import strategies as st

from eval.log import read_log
from eval.report import figures, run_page
from eval.report.run_page import write_report
from eval.sweep import results
from jaxmodels.errors import UserError
from tests.fuzz.inputs import damaged, files, json_values
from tests.fuzz.target import Target
from train.control.controller import Controller
from train.io import checkpoint, lock
from train.io.log import ASIDE, as_record, keep_log, read_metrics, truncate_log


def _quiet(text: str) -> None:
    assert text == text.strip() and "\n" not in text


# Logs.

LINES = [
    {"step": 0, "split": "valid", "loss": 5.5, "next_token": 5.5, "bits_per_byte": 7.9},
    *({"step": step, "split": "train", "next_token": 4.0, "grad_norm": 1.0} for step in (1, 2, 3)),
    {"step": 2, "split": "valid", "loss": 5.0, "next_token": 5.0, "exact": 0.5},
    {"step": 2, "split": "control", "action": "cut", "reason": "a plateau"},
    {"step": 2, "split": "flag", "red_flags": ["the gate is closed"]},
    {"step": 4, "split": "stop", "reason": "step 4: head/kernel is not finite"},
    {"final": True, "step": 4, "digest": "ab", "stopped": "converged"},
]
WORDS = ["step", "split", "train", "valid", "control", "flag", "stop", "final", "reason", "loss"]
WORDS += ["next_token", "bits_per_byte", "action", "digest", "stopped", "grad_norm", "seconds"]
SPLITS = st.sampled_from(["train", "valid", "control", "flag", "stop", "note"])
FIELDS = st.dictionaries(st.sampled_from(WORDS), json_values(), max_size=4)
RECORDS = st.sampled_from(LINES) | st.builds(
    lambda step, split, more: {"step": step, "split": split} | more,
    st.integers(-1, 6) | st.sampled_from([2**63, 10**400, True]),
    SPLITS,
    FIELDS,
)
CONFIG = {"model": "rwkv", "steps": 4, "batch_size": 8, "seq_len": 8, "seed": 0, "dtype": "float32"}
CONFIG |= {"optimizer": {"name": "adamw", "learning_rate": 1e-3, "schedule": "cosine"}}
CONFIG |= {"data": {"format": "text", "tokenizer": "byte", "paths": ["a.txt"]}}


def _log_bytes() -> st.SearchStrategy[bytes]:
    lines = st.lists(RECORDS.map(lambda row: json.dumps(row).encode()), max_size=9)
    whole = lines.map(lambda rows: b"\n".join(rows) + b"\n")
    sample = b"\n".join(json.dumps(row).encode() for row in LINES) + b"\n"
    return st.one_of(whole, lines.map(b"\n".join), damaged([sample]), damaged([sample, sample * 2]))


@functools.cache
def _control():
    from train.config import complete_config

    return complete_config({"model": "rwkv/4", "steps": 9, "control": {"enabled": True}})


def _metrics(folder: Path, given: tuple[bytes, int]) -> None:
    data, step = given
    path = folder / "metrics.jsonl"
    path.write_bytes(data)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    log = read_log(folder)
    with _undrawn():
        run_page.compose(log, {})
    for measure in ({}, {"name": "loss", "scale": 1.0, "best": 0.0}):
        results.measured(log, measure)
    keep_log(folder, step, _quiet)
    shutil.rmtree(folder / ASIDE, ignore_errors=True)
    truncate_log(path, step, _quiet)
    lines = data.split(b"\n")
    records = [(line, as_record(line)) for line in lines]
    kept = [line for line, row in records if row and not row.get("final") and row["step"] <= step]
    assert path.read_bytes() == b"".join(line + b"\n" for line in kept)
    foreign = [line for line, row in records[:-1] if row is None]
    aside = folder / ASIDE / "metrics.jsonl"
    assert (aside.read_bytes() if foreign else b"") == b"".join(line + b"\n" for line in foreign)
    again = read_metrics(folder)
    assert [as_record(line) for line in kept] == again or any("NaN" in str(x) for x in again)
    Controller(_control(), 0.0, again).decide(max(step, 1))


@contextlib.contextmanager
def _undrawn():
    """Draw nothing: Matplotlib takes a tenth of a second, and refuses no numbers."""
    with mock.patch.object(figures, "svg", lambda *_, **__: ""):
        with mock.patch.object(figures, "curves", lambda *_, **__: None):
            yield


# Files that the report reads.

SPLIT = {"pairs": 3, "exact": 0.5, "exact_last": 0.5, "exact_adaptive": 0.5, "cells": 0.9}
SPLIT |= {"rounds_adaptive": 2.0, "exact_by_round": [0.1, 0.5]}
SPLIT |= {"by_confidence": {"0.9": {"exact": 0.5, "rounds": 1.5}}}
FACTS = {"command": "python -m eval", "seed": 0, "device": "cpu", "versions": {"jax": "0.12"}}
ANSWERS = FACTS | {"step": 4, "parameters": 99, "training_pairs": 8, "split": "5 %", "rounds": 2}
ANSWERS |= {"splits": {"unseen": SPLIT, "seen": SPLIT}, "left_out": {"seen": 1}, "by_task": {}}
ANSWERS |= {"speed": {"latency_ms": 1.0, "questions_per_second": 2.0, "batch_size": 4}}
ANSWERS |= {"by_difficulty": {"1": {"pairs": 1, "exact": 1.0, "rounds": 1.0}}, "seconds": 1.0}
ANSWERS |= {"rounds_against_difficulty": 0.1, "halt": "max"}
ANSWERS |= {"examples": [{"question": "q", "expected": "a", "answer": "b", "rounds": 1}]}
EVAL = FACTS | {"step": 4, "seconds": 1.0, "parameters": 99, "max_bytes": None}
EVAL |= {"splits": {"valid": {"bits_per_byte": 2.0}, "test": {"bits_per_byte": 2.1}}}
LEVELS = {"unigram": 4.0, "order-1": 3.0, "order-2": 2.5}
EVAL |= {"baselines": {"valid": LEVELS, "test": LEVELS}}
RUN_FILES = {
    "config.json": CONFIG,
    "data.json": {"notes": ["3 lines were not read"]},
    "timing.jsonl": {"step": 1, "seconds": 1.0, "bytes_per_second": 9.0, "compile_seconds": 2.0},
    "eval.json": EVAL,
    "answers.json": ANSWERS,
    "chat.json": FACTS | {"step": 4, "splits": {}, "left_out": {}},
    "field.json": {"step": 4, "command": "x", "seconds": 1.0},
}


def _report(folder: Path, given: tuple[str, str, bytes]) -> None:
    format, name, data = given
    for file, value in RUN_FILES.items():
        if file in ("chat.json", "field.json") and file != name:
            continue
        if file == "config.json":
            value = value | {"data": value["data"] | {"format": format}}
        (folder / file).write_text(json.dumps(value))
    (folder / name).write_bytes(data)
    lines = "\n".join(map(json.dumps, LINES))
    (folder / "metrics.jsonl").write_text(lines + "\n")
    absent = mock.patch.object(run_page, "_load", side_effect=UserError("no checkpoint"))
    with _undrawn(), absent:
        page = write_report(folder).read_text()
    assert page.startswith("<!doctype html>")


def _replaced(draw, value: Any) -> Any:
    """A JSON value with some parts left out or replaced by others."""
    if draw(st.integers(0, 7)) == 0:
        return draw(json_values())
    if isinstance(value, dict):
        kept = {k: x for k, x in value.items() if draw(st.integers(0, 15))}
        return {key: _replaced(draw, x) for key, x in kept.items()}
    return [_replaced(draw, x) for x in value] if isinstance(value, list) else value


@st.composite
def _run_file(draw) -> tuple[str, str, bytes]:
    name = draw(st.sampled_from([*RUN_FILES, "config.json", "eval.json", "answers.json"]))
    format = draw(
        st.sampled_from(
            {"answers.json": ["pairs"], "chat.json": ["chat"]}.get(
                name, ["text", "text", "pairs", "chat", "puzzle"]
            )
        )
    )
    if draw(st.booleans()):
        return format, name, draw(files(json.dumps(RUN_FILES[name]).encode()))
    return format, name, json.dumps(_replaced(draw, RUN_FILES[name])).encode()


# Checkpoints.


@functools.cache
def _trained() -> tuple[dict[str, bytes], Any]:
    """Train the toy for six steps; return the files of its folder, and what a resume needs."""
    from tests.train.toy import toy_config
    from train.devices.placement import Placement
    from train.loop import run
    from train.tasks import open_task

    config = toy_config(steps=6, checkpoint_every=2, eval_every=2, keep_best=1, keep_last=2)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        run(config, folder, quiet=True, devices=jax.devices()[:1])
        kept = (path for path in folder.rglob("*") if path.is_file() and "events" not in path.name)
        contents = {str(path.relative_to(folder)): path.read_bytes() for path in kept}
    task = open_task(config)
    template = Placement(task.config, jax.devices()[:1]).template()
    return contents, (task, template)


@st.composite
def _changes(draw) -> list[tuple[str, str, Any]]:
    """What is done to the files of checkpoints: (kind, file, with what)."""
    names = sorted(name for name in _trained()[0] if name.startswith("checkpoints/"))
    kinds = ["remove", "truncate", "flip", "rename", "foreign", "folder", "empty", "json", "drop"]
    changes = []
    for _ in range(draw(st.integers(1, 3))):
        kind, name = draw(st.sampled_from(kinds)), draw(st.sampled_from(names))
        json_names = [n for n in names if n.endswith((".json", "METADATA", "_metadata"))]
        if kind == "json":
            name = draw(st.sampled_from(json_names))
            more = draw(files(_trained()[0][name]))
        elif kind in ("rename", "foreign", "folder"):
            more = draw(st.sampled_from(["7", "007", "x", "6.orbax-checkpoint-tmp-1", "-1", "٣"]))
        else:
            more = draw(st.integers(0, 2**16 - 1))
        changes.append((kind, name, more))
    return changes


def _apply(folder: Path, kind: str, name: str, more: Any) -> None:
    path, step = folder / name, folder / "/".join(name.split("/")[:2])
    if not path.exists():
        return
    data = path.read_bytes()
    at = more * len(data) >> 16 if isinstance(more, int) else 0
    if kind == "remove":
        path.unlink()
    elif kind == "drop":
        shutil.rmtree(step if more % 2 else path.parent)
    elif kind == "empty":
        shutil.rmtree(step)
        step.mkdir()
    elif kind == "truncate":
        path.write_bytes(data[:at])
    elif kind == "flip" and data:
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    elif kind == "json":
        path.write_bytes(more)
    elif kind == "rename" and not (step.parent / more).exists():
        step.rename(step.parent / more)
    elif kind == "foreign":
        (step.parent / more).write_bytes(data) if not (step.parent / more).exists() else None
    elif kind == "folder" and not (step.parent / more).is_file():
        (step.parent / more / "sub").mkdir(parents=True, exist_ok=True)


def _checkpoints(folder: Path, changes: list[tuple[str, str, Any]]) -> None:
    contents, (task, template) = _trained()
    workdir = folder / "run"
    for name, data in contents.items():
        (workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (workdir / name).write_bytes(data)
    for change in changes:
        _apply(workdir, *change)
    before = {p for p in workdir.rglob("*") if p.is_file()}
    for which in ("best", "last", 4):
        with contextlib.suppress(UserError):
            checkpoint.load_model(workdir, which, _quiet)
    assert {p for p in workdir.rglob("*") if p.is_file()} == before, "reading changed the folder"
    with contextlib.suppress(UserError):
        iterator = iter(task.train)
        checkpoint.restore(workdir, task.config, template, iterator, task.fingerprint, _quiet)


# Locks.

INFO = {"host": "h", "boot": "b", "pid": 1, "start": "1", "command": "train", "since": 1.0}
INFO |= {"seen": 2.0}


def _lock(folder: Path, data: bytes) -> None:
    (folder / ".run.json").write_bytes(data)
    with mock.patch.multiple(lock, WATCH=0.0, BEAT=60.0):
        with lock.one_writer(folder, "fuzz", say=_quiet):
            pass


def _lock_files() -> st.SearchStrategy[bytes]:
    here = INFO | {"boot": lock._boot(), "host": socket.gethostname()}
    now = INFO | {"since": time.time(), "seen": time.time()}
    numbers = st.sampled_from([0, -1, 2**31, 2**63, 10**30, 1, True])
    times = st.floats() | st.just(time.time())
    made = st.builds(
        lambda base, pid, since, seen: base | {"pid": pid, "since": since, "seen": seen},
        st.sampled_from([INFO, here, now]),
        numbers,
        times,
        times,
    )
    sample = [json.dumps(x).encode() for x in (INFO, here, now)]
    return made.map(lambda info: json.dumps(info).encode()) | files(*sample)


TARGETS = {
    "metrics.jsonl": lambda: Target(_metrics, st.tuples(_log_bytes(), st.integers(0, 5))),
    "files of a report": lambda: Target(_report, _run_file()),
    "checkpoints": lambda: Target(_checkpoints, _changes()),
    "lock": lambda: Target(_lock, _lock_files()),
}

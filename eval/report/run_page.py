"""The page of a run on text, and the choice between it and those of other runs."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from eval.log import Log, device_description, json_object, read_log, understood, versions
from eval.markov import NAMES
from eval.report import answers_page, chat_page, field_page, figures, task_page
from eval.report.document import (
    Block,
    Fold,
    Heading,
    Picture,
    Sample,
    Table,
    Text,
    Tiles,
    provenance,
    to_html,
)
from eval.report.introspect import inspect_model
from eval.run import Run, load_run, markov_baselines
from jaxmodels.cli import write_atomically
from jaxmodels.errors import UserError
from jaxmodels.paths import exists
from train.config import from_json
from train.model import described
from train.tasks.fields import ANSWER_FORMATS, CHAT_FORMAT, SYNTHETIC_FORMAT

Finals = Mapping[str, float]
SPLITS = {"valid": "validation", "test": "test"}


def write_report(workdir: str | Path, run: Run | None = None) -> Path:
    """Write `report.html` into a run's folder and return its path.

    Args:
      workdir: a folder with at least `config.json` or `metrics.jsonl`.
      run: model and corpus to inspect; None loads the checkpoint that `eval.json` evaluated, or
          else the best.

    Raises:
      UserError: the folder holds no run.
    """
    workdir = Path(workdir)
    log, path = read_log(workdir), workdir / "report.html"
    format = log.config.get("data", {}).get("format")
    pages = dict.fromkeys(ANSWER_FORMATS, (answers_page, "answers"))
    pages |= {CHAT_FORMAT: (chat_page, "chat"), SYNTHETIC_FORMAT: (task_page, "task")}
    if isinstance(format, str) and format in pages:
        module, name = pages[format]
        result = workdir / f"{name}.json"
        with understood(result if exists(result) else workdir / "config.json"):
            page = module.compose(log, json_object(result) or None)
        write_atomically(path, page)
        return path
    evaluation = json_object(workdir / "eval.json")
    inspected, missing = [], ""
    try:
        run = run or _load(workdir, evaluation.get("step"))
        inspected = inspect_model(run)
        if not evaluation.get("baselines"):
            evaluation["baselines"] = markov_baselines(run.corpus)
    except UserError as error:
        lacking = "No baselines" if run else "No heat maps, no sample, no fresh baselines"
        missing = f"{lacking}: {error}"
    field = workdir / "field.json"
    with understood(field):
        inspected = [*inspected, *field_page.section(json_object(field))]
    with understood(workdir / ("eval.json" if evaluation else "config.json")):
        page = compose(log, evaluation, inspected, missing)
    write_atomically(path, page)
    return path


def _load(workdir: Path, step: int | None) -> Run:
    """Load a run at the evaluated step, or its best checkpoint if that one no longer exists."""
    if step is not None:
        with contextlib.suppress(UserError):
            return load_run(workdir, checkpoint=str(step))
    return load_run(workdir)


def compose(
    log: Log, evaluation: Mapping[str, Any], inspected: Sequence[Block] = (), missing: str = ""
) -> str:
    """Return the page as HTML.

    Args:
      log: the log of the run.
      evaluation: content of `eval.json`, or {}.
      inspected: blocks on the inside of the model.
      missing: a sentence on what could not be inspected.
    """
    finals = _finals(log, evaluation)
    levels = evaluation.get("baselines", {}).get("valid", {})
    blocks = [
        Text(_summary(log, evaluation, finals, levels), "lead"),
        Tiles(_tiles(log, evaluation, finals, levels)),
        *(Text(note, "missing") for note in [*log.notes, missing] if note),
        *_curves(log, levels),
        *_comparison(log, evaluation, finals),
        *_abstractions(log),
        *_auxiliary(log),
        *_optimizer(log),
        *_control(log),
        *inspected,
        *_provenance(log, evaluation),
    ]
    return to_html(log.title, blocks, log.settings("State of the Union speeches"))


def _finals(log: Log, evaluation: Mapping) -> dict[str, float]:
    """Return split -> final bits per byte, from `eval.json` or else the log."""
    _, values = log.bits_per_byte("valid")
    logged = {"valid": values[-1]} if values else {}
    scores = evaluation.get("splits", {})
    finals = {
        split: scores.get(split, {}).get("bits_per_byte", logged.get(split)) for split in SPLITS
    }
    return {split: value for split, value in finals.items() if value is not None}


def _summary(log: Log, evaluation: Mapping, finals: Finals, levels: Mapping[str, float]) -> str:
    steps = log.last_step
    if steps is None:
        return "Nothing was logged yet: the pictures appear once the run has written metrics.jsonl."
    if log.final:
        stopped = log.final.get("stopped")
        state = f"The controller stopped the run ({stopped})" if stopped else "The run is finished"
        text = f"{state} after {steps} steps. "
    elif log.stopped:
        text = f"The run stopped: {log.stopped}. "
    else:
        text = f"So far {steps} of {log.config.get('steps', '?')} steps are logged. "
    if "valid" not in finals:
        return text + "No validation has run yet."
    valid = finals["valid"]
    step = f" (step {evaluation['step']})" if "step" in evaluation else ""
    text += f"On the validation text the model{step} reaches {valid:.3f} bits per byte"
    if "order-2" in levels:
        gain = levels["order-2"] - valid
        side = "below" if gain > 0 else "above"
        text += (
            f", {abs(gain):.3f} {side} the order-2 byte-Markov baseline ({levels['order-2']:.3f}; "
            f"order 1 {levels['order-1']:.3f}, unigram {levels['unigram']:.3f}), "
            "which was fitted on the same training bytes"
        )
    text += f". On the test text it reaches {finals['test']:.3f}." if "test" in finals else "."
    if evaluation.get("max_bytes"):
        text += f" Each split was limited to about {evaluation['max_bytes']:,} bytes."
    return text


def _tiles(log: Log, evaluation: Mapping, finals: Finals, levels) -> list[tuple[str, str]]:
    tiles = [(f"{value:.3f}", f"bits per byte, {SPLITS[name]}") for name, value in finals.items()]
    if "valid" in finals and "order-2" in levels:
        change = finals["valid"] - levels["order-2"]
        tiles.insert(1, (f"{change:+.2f}", "bits, against order-2 Markov"))
    if evaluation.get("parameters"):
        tiles.append((f"{evaluation['parameters']:,}", "parameters"))
    if log.seconds:
        tiles.append((str(timedelta(seconds=round(log.seconds))), "training time"))
    if log.bytes_per_second:
        tiles.append((f"{log.bytes_per_second:,.0f}", "bytes per second"))
    return tiles


def _curves(log: Log, levels: Mapping[str, float]) -> list[Block]:
    splits = {"training": log.bits_per_byte("train"), "validation": log.bits_per_byte("valid")}
    lines = {label: series for label, series in splits.items() if series[1]}
    if not lines:
        return []
    against = ", against byte-Markov models fitted on the same training bytes (dashed)"
    caption = f"Bits per byte over training{against if levels else ''}."
    caption += " Training values are of single batches."
    figure = figures.curves(lines, ylabel="bits per byte", levels=levels, height=3.4)
    return [Heading("Learning"), Picture(figures.svg(figure, "curves"), caption)]


def _comparison(log: Log, evaluation: Mapping, finals: Finals) -> list[Block]:
    def row(title, name, results):
        return [title, *(_number(results.get(split, {}).get(name)) for split in finals)]

    if not finals:
        return []
    baselines = evaluation.get("baselines", {})
    names = [name for name in NAMES if name in baselines.get("valid", {})]
    rows = [row(f"byte-Markov, {name}", name, baselines) for name in names]
    steps, _ = log.bits_per_byte("valid")
    step = evaluation.get("step", steps[-1] if steps else "?")
    rows.append([f"this model, step {step}", *map(_number, finals.values())])
    titles = [SPLITS[split] for split in finals]
    blocks = [Table(["bits per byte", *titles], rows, styles={len(names): "strong"})]
    if results := evaluation.get("splits", {}):
        terms = sorted({term for split in finals for term in results.get(split, {})})
        rows = [row(term, term, results) for term in terms]
        blocks.append(Fold("All metrics", [Table(["mean", *titles], rows)]))
    return blocks


def _with_prefix(log: Log, prefix: str) -> figures.Series:
    """Return the training metrics whose names start with `prefix`, without it."""
    names = [name for name in log.names("train") if name.startswith(prefix)]
    return {name.removeprefix(prefix): log.series("train", name) for name in names}


def _abstractions(log: Log) -> list[Block]:
    norm = "Mean Euclidean norm of each abstraction layer (training batches)."
    ratio = "Participation ratio of each layer: the fraction of its units that carry its energy."
    blocks = []
    for prefix, label, caption in (
        ("abstraction_norm_", "norm", norm),
        ("participation_", "participation ratio", ratio),
    ):
        lines = {f"layer {k}": series for k, series in _with_prefix(log, prefix).items()}
        blocks += _picture(prefix.strip("_"), lines, label, caption)
    return [Heading("Abstraction layers"), *blocks] if blocks else []


def _auxiliary(log: Log) -> list[Block]:
    weights = _with_prefix(log, "weight/")
    weights.pop("next_token", None)
    if not weights:
        return []
    losses = {name: log.series("train", name) for name in weights if name in log.names("train")}
    rates = {
        name: log.series("valid", name)
        for name in log.names("valid")
        if name.endswith(("_accuracy", "_exact"))
    }
    weighting = "Weight of each auxiliary loss; the weight of the next-token loss is 1."
    unweighted = "Auxiliary losses before weighting (training batches)."
    accuracy = "Accuracy of the heads and decoders on validation."
    return [
        Heading("Auxiliary losses"),
        *_picture("weights", weights, "weight", weighting),
        *_picture("auxiliary", losses, "mean loss", unweighted),
        *_picture("rates", rates, "accuracy", accuracy),
    ]


def _picture(
    name: str, lines: figures.Series, label: str, caption: str, height: float = 2.6
) -> list[Block]:
    """Return a picture of the lines, if there are any."""
    if not lines:
        return []
    figure = figures.curves(lines, ylabel=label, height=height)
    return [Picture(figures.svg(figure, name), caption)]


def _optimizer(log: Log) -> list[Block]:
    blocks = []
    for name, label in (("learning_rate", "learning rate"), ("grad_norm", "gradient norm")):
        lines = {label: log.series("train", name)} if name in log.names("train") else {}
        blocks += _picture(name, lines, label, f"{label.capitalize()} at each step.", 2.0)
    return [Heading("Optimizer"), *blocks] if blocks else []


def _control(log: Log) -> list[Block]:
    if not log.control:
        return []
    rows = [[str(line["step"]), line["action"], line["reason"]] for line in log.control]
    table = Table(["step", "decision", "reason"], rows, left=(0, 1, 2))
    return [Heading("Controller decisions"), table]


def _provenance(log: Log, evaluation: Mapping) -> list[Block]:
    facts, config = {}, log.config
    if config:
        optimizer = config.get("optimizer", {})
        facts["model"] = str(config.get("model"))
        if config.get("tune", {}).get("kind"):
            facts["learned"] = described(from_json(json.dumps(config)))
        facts["steps"] = f"{log.last_step} of {config.get('steps')}"
        facts["batch"] = f"{config.get('batch_size')} rows of {config.get('seq_len')} tokens"
        facts["matmuls in"] = str(config.get("dtype"))
        if log.last_step and "learning_rate" not in log.names("train"):
            facts["optimizer"] = "none: the model learns by local updates"
        elif optimizer:
            facts["optimizer"] = (
                f"{optimizer.get('name')}, learning rate {optimizer.get('learning_rate'):g}, "
                f"{optimizer.get('schedule')}"
            )
    if log.seconds:
        seconds = round(log.seconds)
        facts["training time"] = f"{timedelta(seconds=seconds)} without validation and checkpoints"
    if log.clock("compile_seconds"):
        facts["first step"] = f"{log.clock('compile_seconds')[-1]:.1f} s, including compilation"
    if log.bytes_per_second:
        facts["speed"] = f"{log.bytes_per_second:,.0f} bytes per second (median)"
    if log.final:
        facts["digest"] = str(log.final.get("digest", ""))
    if "step" in evaluation:
        facts["evaluation"] = (
            f"step {evaluation['step']}, {evaluation['device']}, {evaluation['seconds']:.1f} s"
        )
    blocks = provenance(
        facts,
        command=evaluation.get("command"),
        seed=config.get("seed"),
        device=device_description(),
        versions=versions(),
    )
    if config:
        text = json.dumps(config, indent=2, sort_keys=True)
        blocks.append(Fold("Full config", [Sample(text)]))
    return blocks


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if math.isfinite(value) and abs(value) < 1000 else f"{value:.4g}"

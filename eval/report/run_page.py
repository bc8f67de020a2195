"""`report.html` of a run: one file with its numbers, pictures, a sample, and how it was made.

    python -m eval.report --workdir=runs/name

Works on a run that is still going, was stopped, or lacks a part: what is missing is said on
the page.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.log import Log, device_description, json_object, read_log, versions
from eval.report import answers_page, figures, html, introspect
from eval.report.introspect import Seen
from jaxmodels.errors import UserError
from train.tasks import AnswerTask


def write_report(workdir: str | Path, run=None, *, analyse: bool = True) -> Path:
    """Writes `report.html` into a run's folder and returns its path.

    Args:
        workdir: a folder with at least `config.json` or `metrics.jsonl`.
        analyse: also load the model, for the heat maps, and the corpus, for the baselines, unless
            `eval.json` has them. Without it only files of the folder are read.

    Raises:
        UserError: the folder holds no run.
    """
    workdir = Path(workdir)
    log = read_log(workdir)
    if AnswerTask.reads(log.config.get("data", {}).get("format")):
        result = json_object(workdir / "answers.json") or None
        path = workdir / "report.html"
        path.write_text(answers_page.compose(log, result), encoding="utf-8")
        return path
    evaluation = json_object(workdir / "eval.json")
    seen = Seen(baselines=evaluation.get("baselines", {}))
    if analyse:
        seen = introspect.look(workdir, seen.baselines, run)
    path = workdir / "report.html"
    path.write_text(compose(log, evaluation, seen), encoding="utf-8")
    return path


def compose(log: Log, evaluation: Mapping[str, Any], seen: Seen) -> str:
    """The page as text, from what the run wrote, `eval.json` (or {}) and what the model showed."""
    baselines = seen.baselines
    name = log.workdir.resolve().name
    config = log.config
    parts = [
        html.heading(f"{config.get('model', 'run')} · {name}", _subtitle(log)),
        html.paragraph(_summary(log, evaluation, baselines), "lead"),
        html.tiles(_tiles(log, evaluation, baselines)),
        *(html.paragraph(sentence, "missing") for sentence in seen.missing),
        *_curves(log, baselines.get("valid", {})),
        *_comparison(log, evaluation, baselines),
        *_abstractions(log),
        *introspect.sections(seen),
        *_auxiliary(log),
        *_optimiser(log),
        *_control(log),
        *_sample(seen),
        *_facts(log, evaluation),
    ]
    return html.page(f"{config.get('model', 'run')} · {name}", parts)


def _subtitle(log: Log) -> str:
    config, data = log.config, log.config.get("data", {})
    paths = data.get("paths") or ()
    corpus = ", ".join(str(path) for path in paths) or "State of the Union speeches"
    if not config:
        return "no config.json in this folder"
    return (
        f"{corpus}, {data.get('tokenizer', 'byte')} tokens · batch {config.get('batch_size')} x "
        f"{config.get('seq_len')} · seed {config.get('seed')} · {config.get('dtype')}"
    )


def _final(log: Log, evaluation: Mapping, split: str) -> float | None:
    """The last bits per byte known on a split: of `eval.json` if it is there, else of the log."""
    value = evaluation.get("splits", {}).get(split, {}).get("bits_per_byte")
    if value is None and split == "valid":
        _, values = log.bits_per_byte("valid")
        value = values[-1] if values else None
    return value


def _summary(log: Log, evaluation: Mapping, baselines: Mapping) -> str:
    steps = log.last_step
    if steps is None:
        return "Nothing was logged yet: the pictures appear once the run has written metrics.jsonl."
    planned = log.config.get("steps")
    state = f"So far {steps} of {planned or '?'} steps are logged"
    if log.final:
        state = "The run is finished"
        if "stopped" in log.final:
            state = f"The controller stopped the run ({log.final['stopped']})"
    elif log.stopped:
        state = f"The run stopped: {log.stopped}"
    text = f"{state} after {steps} steps. " if log.final else f"{state}. "
    valid, levels = _final(log, evaluation, "valid"), baselines.get("valid", {})
    if valid is None:
        return text + "No validation has run yet."
    which = f" (step {evaluation['step']})" if "step" in evaluation else ""
    text += f"On the validation text the model{which} pays {valid:.3f} bits per byte"
    if "order-2" in levels:
        gain = levels["order-2"] - valid
        side = "below" if gain > 0 else "above"
        text += (
            f", {abs(gain):.3f} {side} the order-2 byte-Markov baseline ({levels['order-2']:.3f}; "
            f"order 1 {levels['order-1']:.3f}, unigram {levels['unigram']:.3f}), "
            "which was fitted on the same training bytes"
        )
    test = _final(log, evaluation, "test")
    text += "." if test is None else f". On the test text it pays {test:.3f}."
    if evaluation.get("max_bytes"):
        text += f" Only about {evaluation['max_bytes']:,} bytes of each text were read for this."
    return text


def _tiles(log: Log, evaluation: Mapping, baselines: Mapping) -> list[tuple[str, str]]:
    tiles = []
    for split, words in (("valid", "validation"), ("test", "test")):
        value, levels = _final(log, evaluation, split), baselines.get(split, {})
        if value is not None:
            tiles.append((f"{value:.3f}", f"bits per byte, {words}"))
        if value is not None and "order-2" in levels and split == "valid":
            tiles.append((f"{value - levels['order-2']:+.2f}", "bits, against order-2 Markov"))
    parameters = evaluation.get("parameters")
    if parameters:
        tiles.append((f"{parameters:,}", "parameters"))
    if log.seconds:
        tiles.append((_duration(log.seconds), "training time"))
    if log.bytes_per_second:
        tiles.append((f"{log.bytes_per_second:,.0f}", "bytes per second"))
    return tiles


def _curves(log: Log, levels: Mapping[str, float]) -> list[str]:
    lines = {}
    for split, words in (("train", "training"), ("valid", "validation")):
        steps, values = log.bits_per_byte(split)
        if values:
            lines[words] = (steps, values)
    if not lines:
        return []
    caption = (
        "Bits per byte over training"
        + (
            ", against byte-Markov models fitted on the same training bytes (dashed)."
            if levels
            else "."
        )
        + " Training values are of single batches."
    )
    figure = figures.curves(lines, ylabel="bits per byte", levels=levels, height=3.4)
    return [html.section("Learning"), html.picture(figures.svg(figure, "curves"), caption)]


def _comparison(log: Log, evaluation: Mapping, baselines: Mapping) -> list[str]:
    splits = [split for split in ("valid", "test") if _final(log, evaluation, split) is not None]
    if not splits:
        return []
    names = [
        name for name in ("unigram", "order-1", "order-2") if name in baselines.get("valid", {})
    ]
    rows = [
        [f"byte-Markov, {name}", *(_number(baselines.get(s, {}).get(name)) for s in splits)]
        for name in names
    ]
    rows.append(["this model", *(_number(_final(log, evaluation, split)) for split in splits)])
    header = [
        "bits per byte",
        *({"valid": "validation", "test": "test"}[split] for split in splits),
    ]
    parts = [html.table(header, rows, strong=[len(rows) - 1])]
    results = evaluation.get("splits", {})
    if results:
        terms = sorted({term for split in splits for term in results.get(split, {})})
        rows = [[t, *(_number(results.get(s, {}).get(t)) for s in splits)] for t in terms]
        parts.append(html.folded("Every measured number", html.table(["mean", *header[1:]], rows)))
    return parts


def _abstractions(log: Log) -> list[str]:
    parts = []
    for prefix, label, caption in (
        (
            "abstraction_norm_",
            "norm",
            "Mean Euclidean norm of each abstraction layer (training batches).",
        ),
        (
            "participation_",
            "participation ratio",
            "Participation ratio of each layer: the share of its units that carries its energy.",
        ),
    ):
        lines = {
            f"layer {name.removeprefix(prefix)}": log.series("train", name)
            for name in log.names("train")
            if name.startswith(prefix)
        }
        if lines:
            figure = figures.curves(lines, ylabel=label)
            parts.append(html.picture(figures.svg(figure, prefix.strip("_")), caption))
    return [html.section("Abstraction layers"), *parts] if parts else []


def _auxiliary(log: Log) -> list[str]:
    weights = {
        name.removeprefix("weight/"): log.series("train", name)
        for name in log.names("train")
        if name.startswith("weight/") and name != "weight/next_token"
    }
    if not weights:
        return []
    losses = {name: log.series("train", name) for name in weights if name in log.names("train")}
    parts = [
        html.section("Auxiliary losses"),
        html.picture(
            figures.svg(figures.curves(weights, ylabel="weight"), "weights"),
            "Weight of each auxiliary loss; the next-token loss has weight 1 throughout.",
        ),
    ]
    if losses:
        figure = figures.curves(losses, ylabel="mean loss")
        caption = "The auxiliary losses themselves, before their weights (training batches)."
        parts.append(html.picture(figures.svg(figure, "auxiliary"), caption))
    rates = {
        name: log.series("valid", name)
        for name in log.names("valid")
        if name.endswith(("_accuracy", "_exact"))
    }
    if rates:
        figure = figures.curves(rates, ylabel="share right")
        caption = "Share of targets that the heads and decoders get right, on validation."
        parts.append(html.picture(figures.svg(figure, "rates"), caption))
    return parts


def _optimiser(log: Log) -> list[str]:
    parts = []
    for name, label in (("learning_rate", "learning rate"), ("grad_norm", "gradient norm")):
        series = log.series("train", name)
        if series[1]:
            figure = figures.curves({label: series}, ylabel=label, height=2.0)
            parts.append(
                html.picture(figures.svg(figure, name), f"{label.capitalize()} at each step.")
            )
    return [html.section("Optimiser"), *parts] if parts else []


def _control(log: Log) -> list[str]:
    if not log.control:
        return []
    rows = [[str(line["step"]), line["action"], line["reason"]] for line in log.control]
    return [
        html.section("What the controller said"),
        html.table(["step", "decision", "why"], rows),
    ]


def _sample(seen: Seen) -> list[str]:
    if seen.sample is None:
        return []
    return [html.section("A sample"), html.text_sample(*seen.sample)]


def _facts(log: Log, evaluation: Mapping) -> list[str]:
    rows = {}
    config = log.config
    if config:
        optimizer = config.get("optimizer", {})
        rows["model"] = str(config.get("model"))
        rows["steps"] = f"{log.last_step} of {config.get('steps')}"
        rows["batch"] = f"{config.get('batch_size')} rows of {config.get('seq_len')} tokens"
        rows["seed"] = str(config.get("seed"))
        rows["matrix products in"] = str(config.get("dtype"))
        rows["optimiser"] = (
            (
                f"{optimizer.get('name')}, learning rate {optimizer.get('learning_rate'):g}, "
                f"{optimizer.get('schedule')}"
            )
            if optimizer
            else ""
        )
    if log.seconds:
        rows["training time"] = f"{_duration(log.seconds)}, validation and checkpoints not counted"
    if log.clock("compile_seconds"):
        rows["first step"] = f"{log.clock('compile_seconds')[-1]:.1f} s, compilation included"
    if log.bytes_per_second:
        rows["speed"] = f"{log.bytes_per_second:,.0f} bytes per second (median)"
    rows["device"] = device_description()
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in versions().items())
    if log.final:
        rows["digest"] = str(log.final.get("digest", ""))
    if evaluation:
        rows["evaluated with"] = str(evaluation.get("command", ""))
        rows["evaluation"] = (
            f"step {evaluation.get('step')}, {evaluation.get('device')}, "
            f"{evaluation.get('seconds', 0):.1f} s"
        )
    parts = [html.section("How it was made")]
    if rows:
        parts.append(html.facts(rows, code=("digest", "evaluated with")))
    if log.config:
        text = html.text_sample("", json.dumps(log.config, indent=2, sort_keys=True))
        parts.append(html.folded("The whole config", text))
    return parts


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if math.isfinite(value) and abs(value) < 1000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.report", description="Write report.html.")
    parser.add_argument("--workdir", required=True, help="folder of a run, e.g. runs/prernk")
    flags = parser.parse_args(arguments)
    try:
        print(write_report(flags.workdir))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

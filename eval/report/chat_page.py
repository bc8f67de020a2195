"""The report page of a run on conversations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.log import Log
from eval.report import figures
from eval.report.document import (
    Block,
    Heading,
    Picture,
    Table,
    Text,
    Tiles,
    not_evaluated,
    provenance,
    to_html,
)

# path in a split's scores -> row of the table
NAMES = {
    "bits_per_byte": "bits per byte of responses",
    "accuracy": "next-token accuracy",
    "arithmetic.all.exact": "arithmetic, exactly right",
    "intent.accuracy": "intent accuracy",
    "intent.majority": "most frequent intent",
    "answerable.auroc": "answerable, area under the ROC curve",
    "answerable.ece": "answerable, calibration error",
    "answerable.share": "answerable, share of the data",
    "stop.auroc": "stop per chunk, area under the ROC curve",
    "stop.ece": "stop per chunk, calibration error",
    "stop.best_f1": "stop per chunk, best F1",
    "stop.always_f1": "F1 of stopping at every chunk",
    "stop.f1": "stop per chunk above 0.5, F1",
    "stop.precision": "stop per chunk, precision",
    "stop.recall": "stop per chunk, recall",
    "exchanges": "exchanges",
    "targets": "tokens of responses and ends",
}
LEARNED, JUMP = 0.95, 0.05  # accuracies that `generalization` compares
CURVES = {
    "accuracy": "next-token accuracy of responses",
    "intent_accuracy": "intent accuracy",
    "answerable_accuracy": "answerable accuracy",
    "stop": "loss of the stop head",
}


def compose(log: Log, result: Mapping[str, Any] | None) -> str:
    """Return the page as HTML; without a result, with the training curves only."""
    notes = [Text(note, "missing") for note in log.notes]
    if result is None:
        blocks = [not_evaluated(log.workdir), *notes, *_curves(log)]
    else:
        blocks = [Text(headline(result), "lead"), Tiles(_tiles(result)), *notes, Heading("Scores")]
        blocks += [score_table(result), *arithmetic_table(result), *confusion_table(result)]
        blocks += [*plan_pictures(result), *panel_table(result), *_curves(log)]
        facts = {
            "checkpoint": f"step {result['step']}",
            "parameters": f"{result['parameters']:,}",
            "conversations": f"{result['corpus']}, split {result['split']}",
        }
        blocks += provenance(facts, **result)
    corpora = " + ".join(log.config.get("data", {}).get("corpora", ()))
    return to_html(log.title, blocks, log.settings(corpora or "conversations"))


def headline(result: Mapping[str, Any]) -> str:
    """Summarize the result in a few sentences."""
    scores = [
        f"{values['bits_per_byte']:.3f} on {split}" for split, values in result["splits"].items()
    ]
    text = (
        f"After {result['step']} steps, bits per byte of responses: {', '.join(scores)}. "
        "A response's end counts as a byte."
    )
    if any(result["left_out"].values()):
        parts = [f"{number:,} of {split}" for split, number in result["left_out"].items()]
        unknown = " or with characters that training lacks" if _tokenizer(result) == "char" else ""
        text += f" Left out as too long for a row{unknown}: {', '.join(parts)}."
    return text


def _tokenizer(result: Mapping[str, Any]) -> str:
    return result.get("tokenizer", "byte")  # older results are of bytes


def _value(scores: Mapping[str, Any], path: str) -> str:
    for name in path.split("."):
        scores = scores.get(name) if isinstance(scores, Mapping) else None
    if scores is None:
        return "-"
    return f"{scores:,}" if isinstance(scores, int) else f"{scores:.4f}"


def _tiles(result) -> list[tuple[str, str]]:
    tiles = [
        (f"{scores['bits_per_byte']:.3f}", f"bits per byte, {split}")
        for split, scores in result["splits"].items()
    ]
    last = list(result["splits"].values())[-1]
    for path in ("arithmetic.all.exact", "intent.accuracy", "answerable.auroc", "stop.auroc"):
        if (value := _value(last, path)) != "-":
            tiles.append((value, NAMES[path]))
    return tiles


def score_table(result: Mapping[str, Any]) -> Table:
    """Return every score that there is, one column per split."""
    splits = result["splits"]
    rows = [[label, *(_value(s, path) for s in splits.values())] for path, label in NAMES.items()]
    rows = [row for row in rows if set(row[1:]) != {"-"}]
    return Table(["", *splits], rows, styles={0: "strong"})


def arithmetic_table(result: Mapping[str, Any]) -> list[Block]:
    """Return the share of sums and differences exactly right by number of digits, per split."""
    splits = {name: s["arithmetic"] for name, s in result["splits"].items() if "arithmetic" in s}
    kinds = {
        (sign, digits): None  # an ordered set
        for scores in splits.values()
        for sign, by_digits in scores.items()
        if sign != "all"
        for digits in by_digits
    }
    if not kinds:
        return []
    rows = []
    for sign, digits in sorted(
        kinds, key=lambda kind: (kind[0], kind[1] != "all", kind[1].zfill(2))
    ):
        cells = [scores.get(sign, {}).get(digits) for scores in splits.values()]
        cells = [f"{x['exact']:.1%} of {x['questions']:,}" if x else "-" for x in cells]
        rows.append([f"a {sign} b", digits, *cells])
    styles = {i: "strong" for i, row in enumerate(rows) if row[1] == "all"}
    note = (
        "Answers of which greedy decoding writes every token, by the digits of the longer operand; "
        "no question has both operands of one in training."
    )
    table = Table(["", "digits", *splits], rows, left=(0, 1), styles=styles)
    return [Heading("Arithmetic: exactly right"), table, Text(note)]


def confusion_table(result: Mapping[str, Any]) -> list[Block]:
    """Return the confusion matrix of the intents on the last split that has one."""
    found = [s["intent"]["confusion"] for s in result["splits"].values() if "intent" in s]
    if not found:
        return []
    names = list(next(iter(found[-1].values())))
    rows = [[label, *(f"{row[name]:,}" for name in names)] for label, row in found[-1].items()]
    return [Heading("Intents: labels against predictions"), Table(["label", *names], rows)]


def plan_pictures(result: Mapping[str, Any]) -> list[Block]:
    """Draw the plans by intent, and what changes along the chunks of responses."""
    plans = result["plans"]
    if not plans:
        return []
    by_intent: dict[str, list] = {}
    for x, y, name in plans["points"]:
        by_intent.setdefault(name, []).append((x, y))
    points = {
        name: np.array(xy) for name, xy in sorted(by_intent.items(), key=lambda i: -len(i[1]))
    }
    shares = [f"component {i} ({100 * s:.0f} %)" for i, s in enumerate(plans["explained"], 1)]
    figure = figures.scatter(points, xlabel=shares[0], ylabel=shares[-1])
    caption = (
        f"Plans from which {plans['rows']} responses are begun, by intent. Their spread is "
        f"{plans['spread']:.3f} of the plans' root mean square; {100 * plans['between']:.0f} % of "
        "their variance lies between intents."
    )
    blocks = [Heading("Plans"), Picture(figures.svg(figure, "plans"), caption)]
    return blocks + _along_chunks(plans["chunks"])


def _along_chunks(chunks: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Draw what `evaluators/plans.py` says of each place of a chunk in its response."""

    def line(key):
        pairs = [(i, row[key]) for i, row in enumerate(chunks, 1) if row[key] is not None]
        return tuple(zip(*pairs, strict=True)) if pairs else ((), ())

    pictures = (
        ("bits per byte", {"bits per byte": line("bits_per_byte")}, "Bits per byte"),
        ("gate", {"gate": line("gate")}, "The refiner's mean gate, 1 for the corrected plan,"),
        (
            "probability",
            {
                "said, last": line("stop_if_last"),
                "said, not last": line("stop_if_not"),
                "share of last": line("last"),
            },
            "The stop head's mean probability that the response ends in the chunk, where it does "
            "and where it does not, and how often it does,",
        ),
    )
    blocks: list[Block] = []
    for number, (label, lines, what) in enumerate(pictures):
        lines = {name: line for name, line in lines.items() if line[0]}
        if lines:
            figure = figures.curves(
                lines, ylabel=label, xlabel="chunk of the response", markers=True
            )
            caption = (
                f"{what} by the chunk's place in the response; the last place is all later ones."
            )
            blocks.append(Picture(figures.svg(figure, f"chunks{number}"), caption))
    return blocks


def panel_table(result: Mapping[str, Any]) -> list[Block]:
    """Return the replies to held-out prompts as they came, or why there are none."""
    title = Heading("Replies to held-out prompts, as they came")
    if not result["panel"]:
        return [title, Text(result["panel_note"], "missing")]
    rows = [[x["prompt"], x["reply"], x["expected"] or "-", x["ended"]] for x in result["panel"]]
    values = [f"distinct-{n} {value:.3f}" for n, value in result["distinct"].items() if value]
    note = f"After {result['trained_bytes']:,} bytes of training. {', '.join(values)}"
    header = ["prompt", "reply", "in the data", "ended by"]
    return [title, Table(header, rows, left=(0, 1, 2, 3)), Text(note)]


def generalization(train: Sequence[tuple[int, float]], valid: Sequence[tuple[int, float]]) -> str:
    """Return whether validation accuracy jumped after the training split was learned.

    Args:
      train, valid: (step, accuracy), in order of steps; training values are of single batches.

    Learned means that the mean of five consecutive training values reaches `LEARNED`. A jump is a
    rise of validation accuracy by `JUMP` or more from then on.
    """
    values = [accuracy for _, accuracy in train]
    means = np.convolve(values, np.ones(5) / 5, "valid") if len(values) >= 5 else np.array([])
    if not (means >= LEARNED).any():
        best = max(means, default=0.0)
        return (
            f"Training accuracy has not reached {LEARNED:.0%} (best mean of five: {best:.1%}), so "
            "nothing can be said on delayed generalization."
        )
    step = train[int(np.argmax(means >= LEARNED)) + 4][0]
    before = [accuracy for at, accuracy in valid if at <= step]
    after = [accuracy for at, accuracy in valid if at > step]
    if not (before and after):
        return f"Training accuracy reached {LEARNED:.0%} at step {step}; too few validations."
    gain = max(after) - max(before)
    verdict = "a delayed generalization" if gain >= JUMP else "no delayed generalization"
    return (
        f"Training accuracy reached {LEARNED:.0%} at step {step}; validation accuracy was "
        f"{max(before):.1%} at best until then and {max(after):.1%} after it: {verdict}."
    )


def _curves(log: Log) -> list[Block]:
    splits = {"training": log.bits_per_byte("train"), "validation": log.bits_per_byte("valid")}
    series = {"bits per byte of responses": splits}
    for name, label in CURVES.items():
        named = {"training": log.series("train", name), "validation": log.series("valid", name)}
        series[label] = named
    blocks = []
    for number, (label, lines) in enumerate(series.items()):
        lines = {name: line for name, line in lines.items() if line[1]}
        if lines:
            figure = figures.curves(lines, ylabel=label)
            caption = f"{label.capitalize()}; training values are of single batches."
            blocks.append(Picture(figures.svg(figure, f"chat{number}"), caption))
    if not blocks:
        return []
    accuracy = [
        list(zip(*log.series(split, "accuracy"), strict=True)) for split in ("train", "valid")
    ]
    return [Heading("Training"), *blocks, Text(generalization(*accuracy))]

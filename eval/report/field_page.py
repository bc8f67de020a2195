"""The part of a report on the field of HFT: the checks and heads of `eval.fields`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.report import figures
from eval.report.document import Block, Heading, Picture, Table, Text

Result = Mapping[str, Any]


def section(result: Result) -> list[Block]:
    """Return the tables and pictures of `field.json`; empty without it."""
    if not result:
        return []
    note = Text(f"Step {result['step']}, by {result['command']}, {result['seconds']:.0f} s.")
    return [Heading("The field"), note, *tables(result), *_pictures(result)]


def tables(result: Result) -> list[Block]:
    """Return the checks, the locality of the nearest, and the heads as tables."""
    s, t, r = result["sketches"], result["tensors"], result["relocation"]
    checks = [
        ["variance, projected / raw", f"{s['variance_ratio']:.3f}"],
        ["mean error of norms", f"{s['norm_error']:.3f}"],
        ["mean error of cosines", f"{s['cosine_error']:.3f} {s['verdict']}"],
        ["tensors that never answer", f"{t['never_answering']:.3f}"],
        ["tensors per context", f"{t['effective_tensors']:.2f}"],
        ["mean distance to the plane", f"{t['mean_absolute_distance']:.3f}"],
        ["R^2 of logits from features", f"{result['features_r2']:.3f}"],
    ]
    if r["events"]:
        checks += [
            ["relocations", str(r["events"])],
            ["  with a lower loss after", f"{100 * r['positive']:.0f} %"],
            ["  mean gain, nats", f"{r['mean_delta']:.3f}"],
            ["  over all contexts, nats", f"{r['mean_delta_of_all_contexts']:.4f}"],
        ]
    cosines = next(iter(result["locality"].values()))
    shares = [
        [name, *(f"{v:.2f}" for v in values.values())]
        for name, values in result["locality"].items()
    ]
    heads = [
        [name, row["setting"], f"{row['valid']:.3f}", f"{row['test']:.3f}" if "test" in row else ""]
        for name, row in _ranked(result)
    ]
    return [
        Table(["check", "value"], checks),
        Table(["nearest tensors in common, at cosine", *cosines], shares),
        Table(["bits per target", "setting", "validation", "test"], heads, left=(0, 1)),
    ]


def _ranked(result: Result) -> list[tuple[str, Result]]:
    """Return (head, row), the least bits on test text first, on validation text without any."""
    return sorted(result["bits"].items(), key=lambda item: item[1].get("test", item[1]["valid"]))


def _pictures(result: Result) -> list[Block]:
    blocks: list[Block] = []
    if len(ranked := _ranked(result)) > 1 and "examples" in result:
        bars = {name: (row.get("test", row["valid"]), 0.0) for name, row in ranked}
        figure = figures.bars(bars, xlabel="bits per target", origin=0.0)
        caption = (
            f"Heads on the same held-out targets, trained on {result['examples']:,} examples; the "
            f"field has learned for {result['step']} steps."
        )
        blocks.append(Picture(figures.svg(figure, "heads"), caption))
    lines = {
        name: ([float(cosine) for cosine in values], list(values.values()))
        for name, values in result["locality"].items()
    }
    figure = figures.curves(
        lines, ylabel="share in common", xlabel="cosine of two inputs", markers=True
    )
    caption = "Nearest tensors that two inputs have in common: a local field rises to the right."
    blocks.append(Picture(figures.svg(figure, "locality"), caption))
    if len(bars := _coverage(**result["tensors"]["log10_count_histogram"])) > 1:
        figure = figures.bars(bars, xlabel="tensors", origin=0.0)
        caption = f"How many of {result['tensors']['contexts']:,} contexts each tensor answers."
        blocks.append(Picture(figures.svg(figure, "coverage"), caption))
    return blocks


def _coverage(counts: Sequence[int], edges: Sequence[float]) -> dict[str, tuple[float, float]]:
    """Return answers, as text -> (tensors, 0).

    edges: log10 of answers, half an answer for none, the last one included; see
    `eval/fields/verify.py`.
    """
    bars = {}
    edges = [10.0**edge for edge in edges[:-1]] + [10.0 ** edges[-1] + 1.0]
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        first = 0 if low == edges[0] < 1.0 else math.ceil(low - 1e-6)
        last = math.ceil(high - 1e-6) - 1
        if count:
            bars[f"{first:,}" if last == first else f"{first:,} to {last:,}"] = float(count), 0.0
    return bars

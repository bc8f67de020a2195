"""Validation curves: means over seeds with bands, and differences from the baseline by seed."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from eval.report import figures
from eval.report.document import Block, Heading, Picture
from eval.sweep.results import of_entry
from eval.sweep.spec import GROUPS

MAX_ENTRIES = 5  # per picture, in addition to the baseline; limited by the colours
Curves = dict[int, np.ndarray]


def section(result: Mapping[str, Any]) -> list[Block]:
    """Return pictures of the entries of each group together with the baseline."""
    parts, baseline = [Heading("Training curves")], next(iter(result["entries"]))
    first = of_seeds(result, baseline)
    for group, title in GROUPS.items():
        names = [name for name, entry in result["entries"].items() if entry["group"] == group]
        curves = {name: of_seeds(result, name) for name in names if name != baseline}
        curves = {name: curve for name, curve in curves.items() if curve[1]}
        pictures = math.ceil(len(curves) / MAX_ENTRIES)
        for index, names in enumerate(np.array_split(list(curves), pictures) if curves else ()):
            entries = {name: curves[name] for name in names}
            parts += _pictures(result["unit"], title, f"{group}{index}", baseline, first, entries)
    return parts if len(parts) > 1 else []


def of_seeds(result: Mapping[str, Any], name: str) -> tuple[list[int], Curves]:
    """Return validation steps, and seed -> values of an entry's finished runs."""
    runs = [run for run in of_entry(result, name) if run["final"] is not None]
    steps = runs[0]["valid"]["steps"] if runs else []
    return steps, {run["seed"]: np.array(run["valid"]["values"]) for run in runs}


def _pictures(unit, title, key, baseline, first, entries) -> list[Block]:
    curves = {baseline: first} | entries if first[1] else entries
    lines = {name: (steps, np.array(list(x.values()))) for name, (steps, x) in curves.items()}
    figure = figures.bands(lines, ylabel=unit)
    caption = f"{title}. Means over seeds; the bands reach from the best to the worst seed."
    parts = [Picture(figures.svg(figure, f"curves_{key}"), caption)]
    steps = first[0]
    lines = {name: (steps, differences(first, curve)) for name, curve in entries.items()}
    lines = {name: line for name, line in lines.items() if len(line[1])}
    if lines:
        lines = {baseline: (steps, np.zeros((1, len(steps))))} | lines
        figure = figures.bands(lines, ylabel=f"from “{baseline}”")
        caption = f"Difference from “{baseline}”, paired by seed; below 0 is better."
        parts.append(Picture(figures.svg(figure, f"differences_{key}"), caption))
    return parts


def differences(first: tuple[list[int], Curves], curves: tuple[list[int], Curves]) -> np.ndarray:
    """Return curves minus the baseline's of the same seeds, (seeds, steps); may be empty."""
    if first[0] != curves[0]:
        return np.zeros((0, 0))
    seeds = sorted(first[1].keys() & curves[1].keys())
    return np.array([curves[1][seed] - first[1][seed] for seed in seeds])

"""Curves of validation: means over seeds with bands, and differences from the baseline by seed."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.report import figures
from eval.report.document import Block, Heading, Picture
from eval.sweep.plan import GROUPS
from eval.sweep.results import of_entry

TOGETHER = 5  # entries in a picture besides the baseline, each with a colour of its own
Curves = dict[int, np.ndarray]


def section(result: Mapping[str, Any]) -> list[Block]:
    """Return two pictures for each few entries of a group, the baseline in each."""
    parts, baseline = [Heading("Along the runs")], next(iter(result["entries"]))
    first = of_seeds(result, baseline)
    for group, title in GROUPS.items():
        names = [name for name, entry in result["entries"].items() if entry["group"] == group]
        found = {name: of_seeds(result, name) for name in names if name != baseline}
        found = {name: curves for name, curves in found.items() if curves[1]}
        for index, part in enumerate(parted(list(found))):
            some = {name: found[name] for name in part}
            parts += _pictures(result["unit"], title, f"{group}{index}", baseline, first, some)
    return parts if len(parts) > 1 else []


def parted(names: Sequence[str]) -> list[list[str]]:
    """Split names into as few parts as there must be, of nearly equal size.

    >>> parted(["a", "b", "c", "d", "e", "f"])
    [['a', 'b', 'c'], ['d', 'e', 'f']]
    """
    count = math.ceil(len(names) / TOGETHER)
    cuts = [round(i * len(names) / count) for i in range(count + 1)] if count else []
    return [list(names[low:high]) for low, high in itertools.pairwise(cuts)]


def of_seeds(result: Mapping[str, Any], name: str) -> tuple[list[int], Curves]:
    """Return steps, and seed -> values of an entry's finished runs validated at those steps."""
    runs = {r["seed"]: r["valid"] for r in of_entry(result, name) if r["final"] is not None}
    if not runs:
        return [], {}
    steps = next(iter(runs.values()))["steps"]
    curves = {seed: np.array(x["values"]) for seed, x in runs.items() if x["steps"] == steps}
    return steps, curves


def _pictures(unit, title, key, baseline, first, some) -> list[Block]:
    shown = {baseline: first} | some if first[1] else some
    lines = {name: (steps, np.array(list(x.values()))) for name, (steps, x) in shown.items()}
    figure = figures.bands(lines, ylabel=unit)
    caption = f"{title}. Means over seeds; the bands reach from the best to the worst seed."
    parts = [Picture(figures.svg(figure, f"curves_{key}"), caption)]
    apart = {}
    for name, curves in some.items():
        if len(values := differences(first, curves)):
            apart[name] = (curves[0], values)
    if apart:
        steps = next(iter(apart.values()))[0]
        figure = figures.bands(
            {baseline: (steps, np.zeros((1, len(steps))))} | apart, ylabel=f"from “{baseline}”"
        )
        caption = f"The same less “{baseline}”, seed by seed; below 0 is better than it."
        parts.append(Picture(figures.svg(figure, f"differences_{key}"), caption))
    return parts


def differences(first: tuple[list[int], Curves], curves: tuple[list[int], Curves]) -> np.ndarray:
    """Return curves minus the baseline's of the same seed: (seeds, steps); empty without any."""
    if first[0] != curves[0]:
        return np.zeros((0, 0))
    seeds = sorted(first[1].keys() & curves[1].keys())
    return np.array([curves[1][seed] - first[1][seed] for seed in seeds])

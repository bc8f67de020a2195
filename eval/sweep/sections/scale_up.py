"""Criteria for scaling up the first of the diagnosed entries (SYSTEMS G-94, G-95).

The source asks for these before it continues to 30M parameters: better than its predecessor (a
question of the sweep itself), validation that does not diverge, gradients of the components within
a factor of three, and knowing which features help.
"""

import statistics
from collections.abc import Mapping
from typing import Any

from eval.report.document import Block, Facts, Heading
from eval.sweep.results import UNITS, of_entry
from eval.sweep.statistics import HELPS, HURTS

RISE = 0.05  # above a run's best value: overfitting (G-42)


def section(result: Mapping[str, Any]) -> list[Block]:
    """Return the part of the page; empty before any run has finished."""
    found = criteria(result)
    return [Heading("Taken together"), Facts(found)] if found else []


def last_above_best(run: Mapping[str, Any]) -> float | None:
    """Return by what share the last validation value exceeds the best; None for unfinished runs.

    Values at or below zero have no shares: None, too.
    """
    values = run["valid"]["values"]
    if run["final"] is None or not values or not min(values) > 0:
        return None
    return run["final"] / min(values) - 1.0


def diverging(result: Mapping[str, Any]) -> tuple[list[str], tuple[str, float] | None]:
    """Return the runs that end more than `RISE` above their best, and the worst with its share."""
    rises = {f"{run['entry']}, seed {run['seed']}": last_above_best(run) for run in result["runs"]}
    known = {name: rise for name, rise in rises.items() if rise is not None}
    worst = max(known.items(), key=lambda pair: pair[1], default=None)
    return [name for name, rise in known.items() if rise > RISE], worst


def balance(result: Mapping[str, Any], entry: str) -> list[float]:
    """Return RWKV's gradient norm over Mamba's for each run of an entry, median of the second half.

    For a run that did not log them it is the ratio of its diagnostics, if there are any.
    """
    found = []
    for run in of_entry(result, entry):
        curves = [run["train"].get(f"grad_norm/{part}", {}) for part in ("rwkv", "mamba")]
        pairs = list(zip(*(curve.get("values", ()) for curve in curves), strict=False))
        ratios = [above / below for above, below in pairs[len(pairs) // 2 :] if below]
        looked = run["diagnostics"].get("components", {}).get("rwkv_over_mamba") or {}
        if not ratios and isinstance(looked.get("raw"), int | float):
            ratios = [looked["raw"]]
        found += [statistics.median(ratios)] if ratios else []
    return found


def criteria(result: Mapping[str, Any]) -> dict[str, str]:
    """Return criterion -> finding, in words; {} before any run has finished."""
    if not any(run["final"] is not None for run in result["runs"]):
        return {}
    found = _divergence(result) if result["unit"] in UNITS.values() else {}
    if result["diagnosis"]:
        hybrid = result["diagnosis"][0]
        if ratios := balance(result, hybrid):
            within = all(1 / 3 <= ratio <= 3 for ratio in ratios)
            listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            found[f"Are the gradients of “{hybrid}” within a factor of 3?"] = (
                f"{'yes' if within else 'no'}: RWKV over Mamba, late in training, by run {listed}"
            )
    return found | _features(result)


def _divergence(result: Mapping[str, Any]) -> dict[str, str]:
    """Judge a loss; a share of errors near zero exceeds its best by chance alone."""
    worse, worst = diverging(result)
    if worst is None:
        return {}
    name, rise = worst
    say = f"none of the runs ends more than {RISE:.0%} above its best value"
    if worse:
        say = f"{len(worse)} runs do, and want regularising: {', '.join(worse)}"
    farthest = f"farthest {rise:+.1%}, {name}" if rise else "each ends at its best"
    return {"Does validation diverge?": f"{say}; {farthest}"}


def _features(result: Mapping[str, Any]) -> dict[str, str]:
    """List what survives the joint test: nothing else is known to help or to hurt."""
    found = {HELPS: [], HURTS: []}
    for answer in result["answers"].values():
        joint = answer["p_jointly"] is not None and answer["p_jointly"] < 0.05
        if joint and answer["verdict"] in found:
            found[answer["verdict"]].append(f"“{answer['with']}” against “{answer['without']}”")
    if not result["answers"]:
        return {}
    rest = len(result["answers"]) - sum(map(len, found.values()))
    parts = [f"better: {', '.join(found[HELPS]) or 'nothing'}"]
    parts += [f"worse: {', '.join(found[HURTS]) or 'nothing'}", f"not known: the other {rest}"]
    return {"What is known jointly (5 % false discoveries)?": "; ".join(parts)}

"""Criteria for scaling up the first diagnosed entry (docs/systems.md, G-94, G-95).

Required before scaling to 30M parameters: better than its predecessor (a question of the sweep),
no divergence of validation, gradient norms of the components within a factor of three, and
knowledge of which features help.
"""

import statistics
from collections.abc import Mapping
from typing import Any

from eval.log import json_value
from eval.report.document import Block, Facts, Heading
from eval.sweep.results import UNITS, of_entry
from eval.sweep.statistics import HELPS, HURTS, significant

RISE = 0.05  # above a run's best value: overfitting (docs/systems.md, G-42)


def section(result: Mapping[str, Any]) -> list[Block]:
    """Return the section; empty before any run has finished."""
    rows = criteria(result)
    return [Heading("Scaling criteria"), Facts(rows)] if rows else []


def last_above_best(run: Mapping[str, Any]) -> float | None:
    """Return the relative excess of the final validation value over the best.

    None for unfinished runs and for values that are not positive.
    """
    values = run["valid"]["values"]
    if run["final"] is None or not values or not min(values) > 0:
        return None
    return run["final"] / min(values) - 1.0


def balance(result: Mapping[str, Any], entry: str) -> list[float]:
    """Return the ratio of the gradient norms of RWKV and Mamba for each run of an entry.

    It is the median over the second half of training, or else the ratio of the diagnostics.
    """
    balances = []
    for run in of_entry(result, entry):
        curves = [run["train"].get(f"grad_norm/{part}", {}) for part in ("rwkv", "mamba")]
        pairs = list(zip(*(curve.get("values", ()) for curve in curves), strict=False))
        ratios = [rwkv / mamba for rwkv, mamba in pairs[len(pairs) // 2 :] if mamba]
        diagnosed = json_value(run["diagnostics"], "components.rwkv_over_mamba.raw")
        if not ratios and isinstance(diagnosed, int | float):
            ratios = [diagnosed]
        balances += [statistics.median(ratios)] if ratios else []
    return balances


def criteria(result: Mapping[str, Any]) -> dict[str, str]:
    """Return criterion -> finding as text; {} before any run has finished."""
    if not any(run["final"] is not None for run in result["runs"]):
        return {}
    # An error rate near zero exceeds its best value by chance, so only losses are judged.
    findings = _divergence(result) if result["unit"] in UNITS.values() else {}
    if result["diagnosis"]:
        hybrid = result["diagnosis"][0]
        if ratios := balance(result, hybrid):
            within = all(1 / 3 <= ratio <= 3 for ratio in ratios)
            listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            findings[f"Are the gradients of “{hybrid}” within a factor of 3?"] = (
                f"{'yes' if within else 'no'}: RWKV over Mamba, late in training, by run {listed}"
            )
    return findings | _features(result)


def _divergence(result: Mapping[str, Any]) -> dict[str, str]:
    rises = {f"{run['entry']}, seed {run['seed']}": last_above_best(run) for run in result["runs"]}
    rises = {name: rise for name, rise in rises.items() if rise is not None}
    if not rises:
        return {}
    name, rise = max(rises.items(), key=lambda pair: pair[1])
    worse = [name for name, rise in rises.items() if rise > RISE]
    text = f"no run ends more than {RISE:.0%} above its best value"
    if worse:
        text = f"{len(worse)} runs do and need regularization: {', '.join(worse)}"
    maximum = f"maximum {rise:+.1%}, {name}" if rise else "each ends at its best"
    return {"Does validation diverge?": f"{text}; {maximum}"}


def _features(result: Mapping[str, Any]) -> dict[str, str]:
    """List the answers that are significant at the false discovery rate."""
    if not result["answers"]:
        return {}
    features = {HELPS: [], HURTS: []}
    for answer in filter(significant, result["answers"].values()):
        features[answer["verdict"]].append(f"“{answer['with']}” against “{answer['without']}”")
    better, worse = (", ".join(pairs) or "none" for pairs in features.values())
    rest = len(result["answers"]) - sum(map(len, features.values()))
    text = f"better: {better}; worse: {worse}; not known: the other {rest}"
    return {"Which differences are significant (5 % false discovery rate)?": text}

"""Is the first of the diagnosed entries fit to be made larger? The criteria of SYSTEMS G-94, G-95.

What the source asks before it goes on to 30M parameters: better than its predecessor (a question
of the matrix itself), validation that does not diverge, gradients of the components within a factor
of three, and knowing which features help.
"""

import statistics
from collections.abc import Mapping
from typing import Any

from eval.sweep.results import UNITS, of_entry
from eval.sweep.statistics import HELPS, HURTS

RISE = 0.05  # above a run's best value: overfitting (G-42)


def last_above_best(run: Mapping[str, Any]) -> float | None:
    """By what share of it the last validation value lies above the best; None for unfinished runs.

    Values at or below zero have no shares: then None, too.
    """
    values = run["valid"]["values"]
    if run["final"] is None or not values or not min(values) > 0:
        return None
    return run["final"] / min(values) - 1.0


def diverging(result: Mapping[str, Any]) -> tuple[list[str], tuple[str, float] | None]:
    """-> (runs that end more than `RISE` above their best, the run that ends farthest, by what)."""
    rises = {f"{run['entry']}, seed {run['seed']}": last_above_best(run) for run in result["runs"]}
    known = {name: rise for name, rise in rises.items() if rise is not None}
    worst = max(known.items(), key=lambda pair: pair[1], default=None)
    return [name for name, rise in known.items() if rise > RISE], worst


def balance(result: Mapping[str, Any], entry: str) -> list[float]:
    """Per run of an entry: RWKV's gradient norm over Mamba's, median of the second half.

    Of a run that did not log them, what a look into it found at its end, if there was one.
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
    """Criterion -> what was found, in words; {} before any run has finished."""
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
    """Of a loss; a share of errors near zero would be far above its best at each stroke of luck."""
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
    """What survives the joint test: everything else is not known to help or to hurt."""
    told = {HELPS: [], HURTS: []}
    for answer in result["answers"].values():
        joint = answer["p_jointly"] is not None and answer["p_jointly"] < 0.05
        if joint and answer["verdict"] in told:
            told[answer["verdict"]].append(f"“{answer['with']}” against “{answer['without']}”")
    if not result["answers"]:
        return {}
    rest = len(result["answers"]) - sum(map(len, told.values()))
    parts = [f"better: {', '.join(told[HELPS]) or 'nothing'}"]
    parts += [f"worse: {', '.join(told[HURTS]) or 'nothing'}", f"not known: the other {rest}"]
    return {"What is known jointly (5 % false discoveries)?": "; ".join(parts)}

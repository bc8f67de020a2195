"""Statistics of a sweep: significance of the differences between entries.

Two entries are distinguishable if the 95 % t interval of the difference of their final validation
values excludes 0. Differences are paired by seed: runs with one seed read the same batches in the
same order, and the effect of the batches exceeds most effects of interest. Welch's unpaired
interval is given for comparison. p-values are also adjusted for the number of questions
(Benjamini-Hochberg false discovery rate).
"""

import statistics
from collections.abc import Mapping
from typing import Any

from scipy import stats

from eval.sweep.results import by_seed, of_entry

CONFIDENCE = 0.95
HELPS, HURTS, SAME, UNKNOWN = "helps", "hurts", "not distinguishable", "not known"
LABELS = {HELPS: "yes", HURTS: "no, worse", SAME: SAME, UNKNOWN: UNKNOWN}
RULE = (
    "Two entries are distinguishable if the 95 % t interval of their difference, paired by seed "
    "(runs with one seed read the same batches), excludes 0. One in twenty comparisons of equal "
    "entries is distinguishable by chance; ✓ marks answers that are significant at a false "
    "discovery rate of 5 % over all questions. “Unpaired” is Welch's interval, for comparison."
)


def compare(with_it: Mapping[int, float], without: Mapping[int, float]) -> dict[str, Any]:
    """Compare two entries by their values for each seed; lower is better.

    Args:
      with_it: seed -> value of the entry with a feature.
      without: seed -> value of the entry without it; only shared seeds are compared.

    Returns:
      difference: mean over the seeds of with minus without; None without a shared seed.
      low, high: its 95 % interval; None with fewer than two seeds or zero spread.
      p: p-value of the paired t test, or None.
      spread: standard deviation of the differences, or None.
      in_spreads: difference / spread, or None.
      unpaired: (low, high) of Welch's interval, or None.
      verdict: "helps", "hurts", "not distinguishable" or "not known".
    """
    empty = dict.fromkeys(("difference", "low", "high", "p", "spread", "in_spreads", "unpaired"))
    seeds = sorted(with_it.keys() & without.keys())
    if not seeds:
        return {**empty, "verdict": UNKNOWN}
    one, other = ([values[seed] for seed in seeds] for values in (with_it, without))
    differences = [a - b for a, b in zip(one, other, strict=True)]
    difference = statistics.fmean(differences)
    answer = {**empty, "difference": difference, "verdict": UNKNOWN}
    if len(seeds) < 2:
        return answer
    spread = statistics.stdev(differences)
    if spread == 0:  # the seeds have no effect, so there is no noise to compare with
        return answer
    test = stats.ttest_rel(one, other)
    interval = test.confidence_interval(CONFIDENCE)
    low, high = float(interval.low), float(interval.high)
    verdict = HELPS if high < 0 else HURTS if low > 0 else SAME
    if statistics.stdev(one) or statistics.stdev(other):
        welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(CONFIDENCE)
        answer["unpaired"] = (float(welch.low), float(welch.high))
    answer |= {"low": low, "high": high, "p": float(test.pvalue), "spread": spread}
    return answer | {"in_spreads": difference / spread, "verdict": verdict}


def answered(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result with the answers to its questions and the diagnosis of the hybrid."""
    return {**result, "answers": answer_all(result), "diagnosed": diagnose(result)}


def answer_all(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return question -> `compare`, with the entries' means, halted runs and the answer as text."""
    answers = {}
    for name, (one, other, text) in result["questions"].items():
        sides = {"with": one, "without": other}
        answer = compare(by_seed(result, one), by_seed(result, other)) | sides
        answer |= {"text": text, "p_jointly": None}
        for key, entry in sides.items():
            values = list(by_seed(result, entry).values())
            answer[f"{key}_mean"] = statistics.fmean(values) if values else None
            answer[f"{key}_seeds"] = len(values)
            answer[f"{key}_halted"] = _halted(result, entry)
        answers[name] = answer
    tested = [answer for answer in answers.values() if answer["p"] is not None]
    adjusted = stats.false_discovery_control([answer["p"] for answer in tested]) if tested else ()
    for answer, p in zip(tested, adjusted, strict=True):
        answer["p_jointly"] = float(p)
    for answer in answers.values():
        answer["words"] = in_words(answer, result["unit"])
    return answers


def diagnose(result: Mapping[str, Any]) -> dict[str, str]:
    """Compare the hybrid's mean with its two baselines; {} without a diagnosis in the sweep.

    See docs/systems.md, G-50. The tolerance is the wider of the two 95 % intervals.
    """
    from train.control.health import diagnose_hybrid

    names = result["diagnosis"]
    if not names:
        return {}
    values = {name: by_seed(result, name) for name in names}
    hybrid, *others = names
    halves = []
    for other in others:
        answer = compare(values[hybrid], values[other])
        if answer["p"] is None:
            return {"verdict": UNKNOWN, "words": f"Not known: too few runs of {hybrid}, {other}."}
        halves.append(answer["high"] - answer["difference"])
    means = {name: statistics.fmean(values[name].values()) for name in names}
    baselines = {name: means[name] for name in others}
    verdict, words = diagnose_hybrid(means[hybrid], baselines, max(halves))
    tail = f"tolerance {max(halves):.4f} {result['unit']}"
    return {"verdict": verdict, "words": f"{words[:1].upper()}{words[1:]} ({tail})."}


def _halted(result: Mapping[str, Any], entry: str) -> int:
    return sum(run["state"] == "halted" for run in of_entry(result, entry))


def significant(answer: Mapping[str, Any]) -> bool:
    """Return whether two entries differ at the false discovery rate of all questions."""
    distinguishable = answer["verdict"] in (HELPS, HURTS)
    return distinguishable and answer["p_jointly"] < 1 - CONFIDENCE


def in_words(answer: Mapping[str, Any], unit: str) -> str:
    """Describe an answer in one or two sentences."""
    one, other = answer["with"], answer["without"]
    halted = [
        f"{answer[f'{key}_halted']} run(s) of “{answer[key]}” became NaN or Inf and are excluded"
        for key in ("with", "without")
        if answer[f"{key}_halted"]
    ]
    tail = f" {'; '.join(halted)}." if halted else ""
    change = answer["difference"]
    if change is None:
        return f"Not known: “{one}” or “{other}” has no finished run.{tail}"
    seeds = f"{answer['with_seeds']} and {answer['without_seeds']} seeds"
    size = f"“{one}” minus “{other}” is {change:+.4f} {unit}"
    if answer["p"] is None:
        return f"Not known: {size}, over {seeds}, which are too few or have no spread.{tail}"
    size += (
        f" [{answer['low']:+.4f}, {answer['high']:+.4f}], {abs(answer['in_spreads']):.1f} x the "
        f"standard deviation of the difference ({answer['spread']:.4f}), {seeds}"
    )
    joint = " ✓" if significant(answer) else ""
    verdict = {HELPS: "Yes", HURTS: "No, it is worse", SAME: "Not distinguishable"}
    return f"{verdict[answer['verdict']]}: {size}{joint}.{tail}"


def summaries(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per entry with means over the seeds that finished.

    `mean` averages the final value, `along` the mean over a run's validations, `grad_norm` the
    largest gradient norm; each has a `_spread`, the sample standard deviation over the seeds. Runs
    that became NaN or Inf are counted as `halted` and excluded. `change` is the mean minus the
    baseline's.
    """
    rows = []
    for name, entry in result["entries"].items():
        runs = of_entry(result, name)
        finished = [run for run in runs if run["final"] is not None]
        norms = (run["train"].get("grad_norm", {}).get("values") for run in finished)
        values = {
            "mean": [run["final"] for run in finished],
            "along": [statistics.fmean(run["valid"]["values"]) for run in finished],
            "grad_norm": [max(curve) for curve in norms if curve],
        }
        row = {"entry": name, "finished": len(finished), "runs": len(runs)}
        for key, numbers in values.items():
            row[key] = statistics.fmean(numbers) if numbers else None
            row[f"{key}_spread"] = statistics.stdev(numbers) if len(numbers) > 1 else None
        row |= {"parameters": entry["parameters"], "halted": _halted(result, name)}
        row["seconds"] = statistics.fmean(run["seconds"] for run in runs) if runs else 0.0
        first = rows[0]["mean"] if rows else row["mean"]
        row["change"] = row["mean"] - first if None not in (row["mean"], first) else None
        rows.append(row)
    return rows


def number(value: float | None, sign: bool = False) -> str:
    """Format a number with four decimals, or None as a dash."""
    return "-" if value is None else f"{value:+.4f}" if sign else f"{value:.4f}"


def interval(answer: Mapping[str, Any]) -> str:
    """Format the interval of an answer of `compare`."""
    return "-" if answer["p"] is None else f"{answer['low']:+.4f} to {answer['high']:+.4f}"

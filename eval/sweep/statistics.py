"""Statistics of a sweep: which differences between entries are distinguishable from chance.

Two entries are distinguishable when the 95 % t interval of the difference of their last validation
values excludes 0. The difference is taken seed by seed: runs of one seed read the same batches in
the same order, and the effect of the batches exceeds most effects of interest. Welch's unpaired
interval is given for comparison. One of twenty comparisons of equals is called different by chance,
so p-values are also adjusted for the number of questions (Benjamini-Hochberg false discovery rate),
and what survives that is marked.
"""

import statistics
from collections.abc import Mapping
from typing import Any

import scipy
from scipy import stats

from eval.sweep.results import by_seed, of_entry

CONFIDENCE = 0.95
HELPS, HURTS, SAME, UNKNOWN = "helps", "hurts", "not distinguishable", "not known"
RULE = (
    "Distinguishable means: the t interval at 95 % of the difference, taken seed by seed (runs of "
    "one seed read the same batches), does not contain 0. Where two entries do not differ, one "
    "comparison in twenty is called so by chance; ✓ marks what survives a false discovery rate of "
    "5 % over all questions. “Unpaired” is Welch's interval of the two means, for comparison."
)


def scipy_version() -> str:
    """Return the version of SciPy, recorded with the results."""
    return scipy.__version__


def compare(with_it: Mapping[int, float], without: Mapping[int, float]) -> dict[str, Any]:
    """Return the effect of what one entry has and the other does not; lower values are better.

    Args:
      with_it: seed -> value.
      without: likewise; seeds that only one of them has are left out.

    Returns:
      difference: mean over the seeds of with minus without, None if they share no seed.
      low, high: its interval at 95 %, None with fewer than two seeds or no spread at all.
      p: of the paired t test, or None.
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
    if spread == 0:  # seeds that change nothing measure no chance
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
    """Return the result with the answers to its questions and the diagnosis of its hybrid."""
    return {**result, "answers": answer_all(result), "diagnosed": diagnose(result)}


def answer_all(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return question -> `compare` with the entries' means, halted runs and the answer in words."""
    answers = {}
    for name, (one, other, text) in result["questions"].items():
        answer = compare(by_seed(result, one), by_seed(result, other))
        answer |= {"with": one, "without": other, "text": text}
        for key, entry in (("with", one), ("without", other)):
            values = list(by_seed(result, entry).values())
            answer[f"{key}_mean"] = statistics.fmean(values) if values else None
            answer[f"{key}_seeds"] = len(values)
            answer[f"{key}_halted"] = _halted(result, entry)
        answers[name] = answer
    known = [answer for answer in answers.values() if answer["p"] is not None]
    adjusted = stats.false_discovery_control([answer["p"] for answer in known]) if known else ()
    for answer in answers.values():
        answer["p_jointly"] = None
    for answer, p in zip(known, adjusted, strict=True):
        answer["p_jointly"] = float(p)
    for answer in answers.values():
        answer["words"] = in_words(answer, result["unit"])
    return answers


def diagnose(result: Mapping[str, Any]) -> dict[str, str]:
    """Compare the hybrid's mean with those of its two baselines (G-50); {} if none is named.

    Differences up to the wider of the two 95 % intervals count as none.
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
    tail = f"differences up to {max(halves):.4f} {result['unit']} count as none"
    return {"verdict": verdict, "words": f"{words[:1].upper()}{words[1:]} ({tail})."}


def _halted(result: Mapping[str, Any], entry: str) -> int:
    return sum(run["state"] == "halted" for run in of_entry(result, entry))


def in_words(answer: Mapping[str, Any], unit: str) -> str:
    """Describe an answer in one or two sentences."""
    one, other = answer["with"], answer["without"]
    halted = [
        f"{answer[f'{key}_halted']} run(s) of “{answer[key]}” became NaN or Inf and are left out"
        for key in ("with", "without")
        if answer[f"{key}_halted"]
    ]
    tail = f" {'; '.join(halted)}." if halted else ""
    change = answer["difference"]
    if change is None:
        return f"Not known: no finished run of one of “{one}”, “{other}”.{tail}"
    seeds = f"{answer['with_seeds']} and {answer['without_seeds']} seeds"
    size = f"“{one}” minus “{other}” is {change:+.4f} {unit}"
    if answer["p"] is None:
        return f"Not known: {size}, over {seeds}, too few or without spread.{tail}"
    size += (
        f" [{answer['low']:+.4f}, {answer['high']:+.4f}], {abs(answer['in_spreads']):.1f} x the "
        f"spread of the difference ({answer['spread']:.4f}), {seeds}"
    )
    jointly = answer["p_jointly"] is not None and answer["p_jointly"] < 1 - CONFIDENCE
    joint = " ✓" if jointly and answer["verdict"] != SAME else ""
    verdict = {HELPS: "Yes", HURTS: "No, it is worse", SAME: "Not distinguishable"}
    return f"{verdict[answer['verdict']]}: {size}{joint}.{tail}"


def summaries(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row an entry: its last validation value and more, over the seeds that finished.

    `mean` is that of the last value, `along` of all values of a run, `grad_norm` of its largest
    gradient norm; each has a `_spread`, the sample standard deviation over the seeds. A run that
    became NaN or Inf counts as `halted` and in no mean. `change` is the mean less the baseline's.
    """
    rows = []
    for name, entry in result["entries"].items():
        runs = of_entry(result, name)
        whole = [run for run in runs if run["final"] is not None]
        largest = (run["train"].get("grad_norm", {}).get("values") for run in whole)
        values = {
            "mean": [run["final"] for run in whole],
            "along": [statistics.fmean(run["valid"]["values"]) for run in whole],
            "grad_norm": [max(norms) for norms in largest if norms],
        }
        row = {"entry": name, "group": entry["group"], "finished": len(whole), "runs": len(runs)}
        for key, found in values.items():
            row[key] = statistics.fmean(found) if found else None
            row[f"{key}_spread"] = statistics.stdev(found) if len(found) > 1 else None
        row |= {"parameters": entry["parameters"], "tokens": entry["tokens"]}
        row["halted"] = _halted(result, name)
        row["seconds"] = statistics.fmean(run["seconds"] for run in runs) if runs else 0.0
        first = rows[0]["mean"] if rows else row["mean"]
        row["change"] = row["mean"] - first if None not in (row["mean"], first) else None
        rows.append(row)
    return rows


def number(value: float | None, sign: bool = False) -> str:
    """Format with four decimals, or as a dash."""
    return "-" if value is None else f"{value:+.4f}" if sign else f"{value:.4f}"

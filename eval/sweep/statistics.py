"""What the differences between entries answer, and when they answer nothing.

The rule: two entries differ ("distinguishable") when the t interval at 95 % of the difference of
their last validation values does not contain 0. The difference is taken seed by seed, for runs of
one seed read the same batches in the same order, and what that alone does to the loss is larger
than most effects; Welch's interval, which knows nothing of pairs, stands beside. Of twenty
comparisons of equals, one is called different by chance; hence p-values adjusted for the number of
questions (Benjamini and Hochberg's false discovery rate), and a mark on what survives them.
"""

import statistics
from collections.abc import Mapping
from typing import Any

import scipy
from scipy import stats

from eval.sweep.results import by_seed, finals, of_entry

CONFIDENCE = 0.95
HELPS, HURTS, SAME, UNKNOWN = "helps", "hurts", "not distinguishable", "not known"
RULE = (
    "Distinguishable means: the t interval at 95 % of the difference, taken seed by seed (runs of "
    "one seed read the same batches), does not contain 0. Where two entries do not differ, one "
    "comparison in twenty is called so by chance; ✓ marks what survives a false discovery rate of "
    "5 % over all questions. “Unpaired” is Welch's interval of the two means, for comparison."
)


def scipy_version() -> str:
    """Of the library that computes the intervals."""
    return scipy.__version__


def compare(with_it: Mapping[int, float], without: Mapping[int, float]) -> dict[str, Any]:
    """The effect of what one entry has and the other has not; lower values are better.

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


def answer_all(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Question -> `compare` with the entries' means, halted runs and the answer in words."""
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
    """The hybrid's mean beside those of its two baselines (G-50); {} if the matrix names none.

    Differences up to the wider of the two intervals at 95 % count as none.
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
    """One or two sentences."""
    one, other = answer["with"], answer["without"]
    halted = [
        f"{answer[f'{key}_halted']} run(s) of “{answer[key]}” ceased to be finite and are left out"
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
    """A row an entry: mean, spread and difference to the baseline of the last validation value."""
    rows = []
    for name, entry in result["entries"].items():
        runs, values = of_entry(result, name), finals(result, name)
        mean = statistics.fmean(values) if values else None
        row = {"entry": name, "group": entry["group"], "finished": len(values), "mean": mean}
        row["spread"] = statistics.stdev(values) if len(values) > 1 else None
        row |= {"runs": len(runs), "halted": _halted(result, name)}
        row |= {"parameters": entry["parameters"], "tokens": entry["tokens"]}
        row["seconds"] = statistics.fmean(run["seconds"] for run in runs) if runs else 0.0
        first = rows[0]["mean"] if rows else mean
        row["change"] = mean - first if None not in (mean, first) else None
        rows.append(row)
    return rows


def table(result: Mapping[str, Any]):
    """The entries' rows as a rich table, the answers under it."""
    from rich.console import Group
    from rich.table import Table

    shown = Table(title=result["unit"], title_justify="left")
    for column in ("entry", "mean", "spread", "from the baseline", "runs"):
        shown.add_column(column, justify="left" if column == "entry" else "right")
    for row in summaries(result):
        shown.add_row(
            row["entry"],
            number(row["mean"]),
            number(row["spread"]),
            number(row["change"], sign=True),
            f"{row['finished']} of {row['runs']}",
        )
    said = [f"{a['text']}\n  {a['words']}" for a in result["answers"].values()]
    return Group(shown, *said)


def number(value: float | None, sign: bool = False) -> str:
    """Four decimals, or a dash."""
    return "-" if value is None else f"{value:+.4f}" if sign else f"{value:.4f}"

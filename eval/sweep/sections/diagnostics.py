"""Findings of `--diagnostics` in the finished runs, entry by entry (SYSTEMS G-93)."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from eval.report.document import Block, Heading, Table, Text
from eval.sweep.results import of_entry

MARKS = {"pass": "pass", "warn": "warn", "fail": "FAIL", "skip": "-"}
PATHS = ("rwkv", "mamba", "gla")
PARTS = (*PATHS, "attention", "channel")
STATES = {"norm": "norm", "cosine": "cosine", "effective_rank": "effective rank"}
STATES |= {"utilisation": "of the largest", "saturation": "beyond 5"}
SAID = (
    "Means over seeds and layers. Gradients: RWKV's norm over Mamba's, of one batch (0.3 to 3 "
    "wanted). Without a part: nats a token that the loss rises. Probe: share of a passkey's "
    "symbols that a linear probe reads from the recurrent state after so many tokens; answers: "
    "what the model itself says when asked; chance is 10 %."
)
STATES_SAID = (
    "Of each kind of recurrent path: Frobenius norm of a layer's state, mean cosine of states one "
    "token apart (1 does not move), effective rank and its share of the largest possible, share of "
    "entries beyond 5, and the mean factor on the state a token."
)


def section(result: Mapping[str, Any]) -> list[Block]:
    """Return the part of the page; empty if no run was looked into."""
    looked = [run for run in result["runs"] if run["diagnostics"].get("gates")]
    if not looked:
        return []
    missing = sum(run["final"] is not None for run in result["runs"]) - len(looked)
    blocks = [Heading("Inside the runs"), Text(SAID)]
    if missing:
        blocks.append(Text(f"{missing} finished runs were not looked into.", "missing"))
    states = _states(result)
    return [*blocks, _overview(result), *([Text(STATES_SAID), states] if states.rows else [])]


def gates(runs: Iterable[Mapping[str, Any]]) -> list[Block]:
    """Return every gate of an entry's runs, a column a seed; empty if none was looked into."""
    runs = [run for run in runs if run["diagnostics"].get("gates")]
    if not runs:
        return []
    rows: dict[str, dict[int, str]] = {}
    for run in runs:
        for gate in run["diagnostics"]["gates"]:
            value = f" {_short(gate['value'])}" if gate["value"] is not None else ""
            rows.setdefault(gate["gate"], {})[run["seed"]] = MARKS[gate["outcome"]] + value
    seeds = [run["seed"] for run in runs]
    table = [[gate, *(found.get(seed, "-") for seed in seeds)] for gate, found in rows.items()]
    said = "Gates; the whole look is in diagnostics.html of each run's folder."
    if parts := dict.fromkeys(text for run in runs for text in run["diagnostics"]["missing"]):
        said += f" Not looked at: {'; '.join(parts)}."
    return [Text(said), Table(["", *(f"seed {seed}" for seed in seeds)], table)]


def _overview(result: Mapping[str, Any]) -> Table:
    distances = sorted(
        {
            recall["distance"]
            for run in result["runs"]
            for recall in run["diagnostics"].get("probes", {}).get("recall", ())
        }
    )
    far = distances[-1] if distances else 0
    parts = [part for part in PARTS if any(_rise(r["diagnostics"], part) for r in result["runs"])]
    header = ["", "gates passed, warned, failed", "gradients"]
    header += [f"without {part}" for part in parts]
    header += ["probe at 0", f"at {far}", f"answers at {far}", "seeds"]
    rows = []
    for name, found in _looked(result):
        outcomes = [gate["outcome"] for one in found for gate in one["gates"]]
        shares = (f"{outcomes.count(kind) / len(found):.0f}" for kind in ("pass", "warn", "fail"))
        cells = [name, ", ".join(shares)]
        cells.append(_mean(_get(one, "components", "rwkv_over_mamba", "raw") for one in found))
        cells += [_mean((_rise(one, part) for one in found), "{:+.3f}") for part in parts]
        cells += [_mean((_probe(one, at) for one in found), "{:.0%}") for at in (0, far)]
        cells.append(_mean((_answers(one, far) for one in found), "{:.0%}"))
        rows.append([*cells, str(len(found))])
    return Table(header, rows)


def _states(result: Mapping[str, Any]) -> Table:
    rows = []
    for name, found in _looked(result):
        layers = [row for one in found for row in one.get("states", {}).get("layers", ())]
        for path in PATHS:
            own = [row for row in layers if row["component"] == path]
            if own:
                numbers = [_mean(row[field] for row in own) for field in STATES]
                retention = _mean((row["retention"]["mean"] for row in own), "{:.4f}")
                rows.append([f"{name}: {path}", *numbers, retention])
    return Table(["", *STATES.values(), "retention"], rows)


def _looked(result: Mapping[str, Any]):
    """Yield (entry, the diagnostics of each of its runs) for entries that were looked into."""
    for name in result["entries"]:
        found = [run["diagnostics"] for run in of_entry(result, name)]
        if found := [one for one in found if one.get("gates")]:
            yield name, found


def _rise(found: Mapping[str, Any], part: str) -> float | None:
    return _get(found, "components", "dominance", "rises", part)


def _recall(found: Mapping[str, Any], distance: int) -> Mapping[str, Any]:
    listed = found.get("probes", {}).get("recall", ())
    return next((recall for recall in listed if recall["distance"] == distance), {})


def _probe(found: Mapping[str, Any], distance: int) -> float | None:
    decoded = _recall(found, distance).get("decoded", {})
    return next(reversed(decoded.values()))["accuracy"] if decoded else None


def _answers(found: Mapping[str, Any], distance: int) -> float | None:
    return _recall(found, distance).get("accuracy")


def _get(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _mean(values: Iterable[Any], form: str = "{:.4g}") -> str:
    """Return the mean of the numbers; non-finite values are words in JSON, and left out."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return form.format(statistics.fmean(numbers)) if numbers else "-"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)

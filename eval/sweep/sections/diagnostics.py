"""Diagnostics of the finished runs, entry by entry (docs/systems.md, G-93)."""

import itertools
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from eval.diagnostics.page import MARKS
from eval.log import json_value
from eval.report.document import Block, Heading, Table, Text
from eval.sweep.results import of_entry

PATHS = ("rwkv", "mamba", "gla")
PARTS = (*PATHS, "attention", "channel")
STATES = {"norm": "norm", "cosine": "cosine", "effective_rank": "effective rank"}
STATES |= {"utilisation": "relative rank", "saturation": "beyond 5"}
NOTE = (
    "Means over seeds and layers. Gradients: ratio of the gradient norms of RWKV and Mamba on one "
    "batch (target: 0.3 to 3). Without a part: increase of the loss in nats per token. Probe: "
    "accuracy of a linear probe that reads the symbols of a passkey from the recurrent state after "
    "so many tokens; answers: accuracy of the model's own answers; chance is 10 %."
)
STATES_NOTE = (
    "For each kind of recurrent path: Frobenius norm of a layer's state, mean cosine of states one "
    "token apart, effective rank, absolute and relative to the maximum, fraction of entries "
    "beyond 5, and mean decay of the state per token."
)


def section(result: Mapping[str, Any]) -> list[Block]:
    """Return the section; empty if no run has diagnostics."""
    count = sum(bool(run["diagnostics"].get("gates")) for run in result["runs"])
    if not count:
        return []
    missing = sum(run["final"] is not None for run in result["runs"]) - count
    blocks = [Heading("Diagnostics"), Text(NOTE)]
    if missing:
        blocks.append(Text(f"{missing} finished runs have no diagnostics.", "missing"))
    states = _states(result)
    return [*blocks, _overview(result), *([Text(STATES_NOTE), states] if states.rows else [])]


def gates(runs: Iterable[Mapping[str, Any]]) -> list[Block]:
    """Return every gate of an entry's runs, one column per seed; empty without diagnostics."""
    runs = [run for run in runs if run["diagnostics"].get("gates")]
    if not runs:
        return []
    rows: dict[str, dict[int, str]] = {}
    for run in runs:
        for gate in run["diagnostics"]["gates"]:
            value = f" {_short(gate['value'])}" if gate["value"] is not None else ""
            rows.setdefault(gate["gate"], {})[run["seed"]] = MARKS[gate["outcome"]] + value
    seeds = [run["seed"] for run in runs]
    table = [[gate, *(values.get(seed, "-") for seed in seeds)] for gate, values in rows.items()]
    text = "Gates; see diagnostics.html in each run's folder for all diagnostics."
    if parts := dict.fromkeys(text for run in runs for text in run["diagnostics"]["missing"]):
        text += f" Skipped: {'; '.join(parts)}."
    return [Text(text), Table(["", *(f"seed {seed}" for seed in seeds)], table)]


def _overview(result: Mapping[str, Any]) -> Table:
    recalls = [run["diagnostics"].get("probes", {}).get("recall", ()) for run in result["runs"]]
    far = max((recall["distance"] for recall in itertools.chain(*recalls)), default=0)
    parts = [part for part in PARTS if any(_rise(r["diagnostics"], part) for r in result["runs"])]
    header = ["", "gates passed, warned, failed", "gradients"]
    header += [f"without {part}" for part in parts]
    header += ["probe at 0", f"at {far}", f"answers at {far}", "seeds"]
    rows = []
    for name, runs in _diagnosed(result):
        outcomes = [gate["outcome"] for run in runs for gate in run["gates"]]
        counts = (f"{outcomes.count(kind) / len(runs):.0f}" for kind in ("pass", "warn", "fail"))
        cells = [name, ", ".join(counts)]
        cells.append(_mean(json_value(run, "components.rwkv_over_mamba.raw") for run in runs))
        cells += [_mean((_rise(run, part) for run in runs), "{:+.3f}") for part in parts]
        cells += [_mean((_probe(run, at) for run in runs), "{:.0%}") for at in (0, far)]
        cells.append(_mean((_recall(run, far).get("accuracy") for run in runs), "{:.0%}"))
        rows.append([*cells, str(len(runs))])
    return Table(header, rows)


def _states(result: Mapping[str, Any]) -> Table:
    rows = []
    for name, runs in _diagnosed(result):
        layers = [row for run in runs for row in run.get("states", {}).get("layers", ())]
        for path in PATHS:
            selected = [row for row in layers if row["component"] == path]
            if selected:
                numbers = [_mean(row[field] for row in selected) for field in STATES]
                retention = _mean((row["retention"]["mean"] for row in selected), "{:.4f}")
                rows.append([f"{name}: {path}", *numbers, retention])
    return Table(["", *STATES.values(), "retention"], rows)


def _diagnosed(result: Mapping[str, Any]):
    """Yield (entry, diagnostics of its runs) for entries with diagnostics."""
    for name in result["entries"]:
        diagnostics = [run["diagnostics"] for run in of_entry(result, name)]
        if diagnostics := [run for run in diagnostics if run.get("gates")]:
            yield name, diagnostics


def _rise(diagnostics: Mapping[str, Any], part: str) -> float | None:
    return json_value(diagnostics, f"components.dominance.rises.{part}")


def _recall(diagnostics: Mapping[str, Any], distance: int) -> Mapping[str, Any]:
    recalls = diagnostics.get("probes", {}).get("recall", ())
    return next((recall for recall in recalls if recall["distance"] == distance), {})


def _probe(diagnostics: Mapping[str, Any], distance: int) -> float | None:
    decoded = _recall(diagnostics, distance).get("decoded", {})
    return next(reversed(decoded.values()))["accuracy"] if decoded else None


def _mean(values: Iterable[Any], form: str = "{:.4g}") -> str:
    """Format the mean of the numbers; non-finite values, which JSON has as strings, are skipped."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return form.format(statistics.fmean(numbers)) if numbers else "-"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)

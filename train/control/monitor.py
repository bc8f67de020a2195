"""Inspection of a model's components at each validation, for red flags (docs/systems.md, G-47).

`config.control.watch` enables it, for models with `intermediates` (`models/observe.py`). It reads
the same few held-out tokens every time, from a fresh state, in two pieces, and logs one line of
split "flag": statistics by component, and in `reason` the red flags, if any.

Every process runs it on one device, which must hold the whole model: the statistics do not depend
on the placement.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmodels.data import Corpus
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from train.control import health

ROWS, PIECE = 4, 64  # batch size; tokens of each of the two pieces
COMPONENTS = ("rwkv", "mamba", "gla")
LEAST = ("output_variance", "state_entropy")  # minimum over layers; other statistics: mean
Layer = Mapping[str, np.ndarray]


class ComponentMonitor:
    """Inspector of a model on one fixed text.

    The text is the first validation tokens of `corpus` (training tokens if there are none),
    repeated if too few. `model` may be abstract; one without `intermediates` raises UserError.
    """

    def __init__(self, config: ConfigDict, model: Any, corpus: Corpus):
        if not traits_of(model).intermediates:
            raise UserError(
                f"config.control.watch: {config.model} has no `intermediates` to inspect; "
                "set it to false"
            )
        documents = (corpus.valid or corpus.train)[: 2 * ROWS * PIECE]
        text = np.concatenate([np.asarray(d.tokens, np.int32) for d in documents])
        self.tokens = np.resize(text, (ROWS, 2 * PIECE))

    def inspect(self, model: Any) -> dict[str, Any]:
        """Return the values of a log line; `model` has host leaves.

        For each component: means over its layers of `state_norm/...` (Frobenius, G-61),
        `output_rms/...` and `retention/...`; minima of `output_variance/...` (relative to the mean
        square, G-62) and `state_entropy/...` (nats, G-64).
        """
        state, first = model.intermediates(model.initial_state(ROWS), self.tokens[:, :PIECE])
        _, second = model.intermediates(state, self.tokens[:, PIECE:])
        return judge(*jax.device_get((first, second)))


def judge(first: Sequence[Layer], second: Sequence[Layer]) -> dict[str, Any]:
    """Return statistics and `reason` from the intermediates of two consecutive pieces of text."""
    values: dict[str, list[float]] = {}
    flags: dict[str, list[int]] = {}
    for depth, (before, after) in enumerate(zip(first, second, strict=True)):
        for component in COMPONENTS:
            for name, number in _statistics(component, after).items():
                values.setdefault(f"{name}/{component}", []).append(number)
            for sentence in _red_flags(component, before, after):
                flags.setdefault(sentence, []).append(depth)
    means = {
        name: min(numbers) if name.startswith(LEAST) else sum(numbers) / len(numbers)
        for name, numbers in values.items()
    }
    line: dict[str, Any] = {name: float(f"{value:.6g}") for name, value in sorted(means.items())}
    if flags:
        line["reason"] = "; ".join(f"{flag} in {_layers(at)}" for flag, at in flags.items())
    return line


def _statistics(component: str, layer: Layer) -> dict[str, float]:
    values = {}
    if (state := layer.get(f"{component}_state")) is not None:
        values["state_norm"] = health.state_norm(state)
        values["state_entropy"] = health.state_entropy(state)
    if (retention := layer.get(f"{component}_retention")) is not None:
        values["retention"] = float(np.asarray(retention, np.float64).mean())
    if (out := layer.get(f"{component}_out")) is not None:
        flat = np.asarray(out, np.float64).reshape(-1, out.shape[-1])
        power = float(np.square(flat).mean())
        values["output_rms"] = power**0.5
        values["output_variance"] = float(flat.var(0).mean()) / power if power else 0.0
    return values


def _red_flags(component: str, before: Layer, after: Layer) -> list[str]:
    """Return a sentence, without the layer, for each failed check of `train.control.health`."""
    flags = []
    out, delta = after.get(f"{component}_out"), after.get(f"{component}_delta")
    if out is not None and health.activation_collapsed(out):
        flags.append(f"{component}'s output is constant")
    if delta is not None and health.activation_collapsed(delta):  # ignores the input
        flags.append(f"{component} selects nothing")
    retention = after.get(f"{component}_retention")
    if retention is not None and (end := health.decay_collapsed(retention)):
        flags.append(f"{component}'s retention collapsed to {end}")
    name = f"{component}_state"
    if name in after and health.state_stuck(before[name], after[name]):
        flags.append(f"{component}'s state does not move")
    return flags


def _layers(depths: Sequence[int]) -> str:
    listing = ", ".join(map(str, depths[:8])) + (", ..." if len(depths) > 8 else "")
    return f"layer{'s' if len(depths) > 1 else ''} {listing}"

"""Inspection of the components at each validation, for the red flags (SYSTEMS G-47).

`config.control.watch` turns it on, for a model that has `intermediates` (see `models/observe.py`).
It reads the same few tokens of held-out text every time, from a fresh state, in two pieces, and
writes one line of split "flag": numbers by component, and in `reason` what is wrong, if anything.

On one device and in every process alike: the numbers are the same whatever the placement. A model
that does not fit on one device is not to be watched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmodels.data import Corpus
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from train.control import health

ROWS, PIECE = 4, 64  # sequences side by side; tokens of each of the two pieces
COMPONENTS = ("rwkv", "mamba", "gla")
LEAST = ("output_variance", "state_entropy")  # of the layers; of other numbers the mean
Layer = Mapping[str, np.ndarray]


class ComponentMonitor:
    """Inspects a model on one fixed text.

    Args:
      model: any of the kind, shapes suffice; only asked whether it has `intermediates`.
      corpus: the first tokens of its validation split are read, over and over if they are few; of
        its training split if there is no other.

    Raises:
      UserError: the model does not show its layers.
    """

    def __init__(self, config: ConfigDict, model: Any, corpus: Corpus):
        if not traits_of(model).intermediates:
            raise UserError(
                f"config.control.watch: {config.model} has no `intermediates`, its layers cannot "
                "be looked at; set it to false"
            )
        documents = (corpus.valid or corpus.train)[: 2 * ROWS * PIECE]
        text = np.concatenate([np.asarray(d.tokens, np.int32) for d in documents])
        self.tokens = np.resize(text, (ROWS, 2 * PIECE))

    def inspect(self, model: Any) -> dict[str, Any]:
        """The values of a line of the log; `model` with leaves that are on the host.

        For each component the means over its layers of `state_norm/...` (Frobenius, G-61),
        `output_rms/...` and `retention/...`, and the smallest of `output_variance/...`, as a share
        of the mean square (G-62), and of `state_entropy/...` (nats, G-64).
        """
        state, first = model.intermediates(model.initial_state(ROWS), self.tokens[:, :PIECE])
        _, second = model.intermediates(state, self.tokens[:, PIECE:])
        return judge(*jax.device_get((first, second)))


def judge(first: Sequence[Layer], second: Sequence[Layer]) -> dict[str, Any]:
    """Return numbers and `reason` from the intermediates of two consecutive pieces of text."""
    values: dict[str, list[float]] = {}
    wrong: dict[str, list[int]] = {}
    for depth, (before, after) in enumerate(zip(first, second, strict=True)):
        for component in COMPONENTS:
            for name, number in _numbers(component, after).items():
                values.setdefault(f"{name}/{component}", []).append(number)
            for sentence in _wrong(component, before, after):
                wrong.setdefault(sentence, []).append(depth)
    means = {
        name: min(numbers) if name.startswith(LEAST) else sum(numbers) / len(numbers)
        for name, numbers in values.items()
    }
    line: dict[str, Any] = {name: float(f"{value:.6g}") for name, value in sorted(means.items())}
    if wrong:
        line["reason"] = "; ".join(f"{says} in {_layers(at)}" for says, at in wrong.items())
    return line


def _numbers(component: str, layer: Layer) -> dict[str, float]:
    found = {}
    if (state := layer.get(f"{component}_state")) is not None:
        flat = np.asarray(state, np.float64).reshape(len(state), -1)
        found["state_norm"] = float(np.linalg.norm(flat, axis=1).mean())
        found["state_entropy"] = health.state_entropy(state)
    if (retention := layer.get(f"{component}_retention")) is not None:
        found["retention"] = float(np.asarray(retention, np.float64).mean())
    if (out := layer.get(f"{component}_out")) is not None:
        flat = np.asarray(out, np.float64).reshape(-1, out.shape[-1])
        power = float(np.square(flat).mean())
        found["output_rms"] = power**0.5
        found["output_variance"] = float(flat.var(0).mean()) / power if power else 0.0
    return found


def _wrong(component: str, before: Layer, after: Layer) -> list[str]:
    """Sentences, without the layer, for what `train.control.health` finds."""
    found = []
    out, delta = after.get(f"{component}_out"), after.get(f"{component}_delta")
    if out is not None and health.activation_collapsed(out):
        found.append(f"{component}'s output is constant")
    if delta is not None and health.selection_dead(delta):
        found.append(f"{component} selects nothing")
    retention = after.get(f"{component}_retention")
    if retention is not None and (end := health.decay_collapsed(retention)):
        found.append(f"{component}'s retention collapsed to {end}")
    name = f"{component}_state"
    if name in after and health.state_stuck(before[name], after[name]):
        found.append(f"{component}'s state does not move")
    return found


def _layers(depths: Sequence[int]) -> str:
    shown = ", ".join(map(str, depths[:8])) + (", ..." if len(depths) > 8 else "")
    return f"layer{'s' if len(depths) > 1 else ''} {shown}"

"""The definition of a field's local rule as a loop in NumPy, to measure the library against.

One sample at a time, as the source learns: distances, weights, outputs, and the fixed step of
columns, normals and offsets with the weights held constant.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxmodels.cells.hypertensor import Field, FieldConfig


class Loop:
    """A field in float32 NumPy that learns from one sample at a time.

    Args:
      config: distance "euclidean", weighting "softmax", interpolation "lerp", step "fixed".
      field: initial values.
      tensorwise: find the nearest in a loop over tensors, as the definition reads; else by one
        product of a matrix and a vector.
    """

    def __init__(self, config: FieldConfig, field: Field, tensorwise: bool = True):
        self.config, self.tensorwise = config, tensorwise
        names = "normal", "offset", "bands", "columns"
        values = (np.array(getattr(field, name), np.float32) for name in names)
        self.normal, self.offset, self.bands, self.columns = values

    def read(self, x: np.ndarray) -> list[tuple[int, float, np.ndarray, np.ndarray]]:
        """Return (tensor, weight, alpha (3,), slope (3,)) of the K nearest to x (d,)."""
        if self.tensorwise:
            far = np.array(
                [np.linalg.norm(x + b * n) for n, b in zip(self.normal, self.offset, strict=True)]
            )
        else:
            along = self.normal @ x
            far = np.sqrt(np.maximum(x @ x + self.offset * (2 * along + self.offset), 0.0))
        near = np.argpartition(far, self.config.nearest - 1)[: self.config.nearest]
        weight = np.exp(-(far[near] - far[near].min()) / self.config.temperature)
        weight /= weight.sum()
        return [(i, w, *self._lerp(i, x)) for i, w in zip(near, weight, strict=True)]

    def _lerp(self, i, x):
        d = self.normal[i] @ x + self.offset[i]
        band = self.bands[i, 1] if d >= 0 else -self.bands[i, 0]
        t, slope = np.clip(d / band, -1.0, 1.0), (1.0 / band if abs(d) < band else 0.0)
        if t >= 0:
            return np.array([0.0, 1.0 - t, t], "f"), slope * np.array([0.0, -1.0, 1.0], "f")
        return np.array([-t, 1.0 + t, 0.0], "f"), slope * np.array([-1.0, 1.0, 0.0], "f")

    def predict(self, reading) -> np.ndarray:
        """Return the output (V,)."""
        return sum(w * (alpha @ self.columns[i]) for i, w, alpha, _ in reading)

    def learn(self, x: np.ndarray, target: int) -> float:
        """Learn from one context and its target; return the loss before, nats."""
        reading = self.read(x)
        y = self.predict(reading)
        p = np.exp(y - y.max())
        p /= p.sum()
        loss = -float(np.log(p[target]))
        p[target] -= 1.0
        for i, w, alpha, slope in reading:
            along = self.config.geometry_rate * w * (slope @ (self.columns[i] @ p))
            self.columns[i] -= (self.config.rate * w) * (alpha[:, None] * p[None])
            self.normal[i] -= along * x
            self.normal[i] /= np.linalg.norm(self.normal[i])
            self.offset[i] -= along
        return loss


def seconds_of(
    function: Callable[[int], Any], count: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the seconds of each of `count` calls with 0, 1, 2 ..."""
    seconds = []
    for i in range(count):
        start = clock()
        function(i)
        seconds.append(clock() - start)
    return seconds

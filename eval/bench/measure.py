"""What the benchmarks share: the rate of a matrix product, and measurements taken in turns.

utilisation = model FLOPs a second / float32 rate of a 1024^3 product,

where the rate is measured in the same process, in turns with the work, so that both see the same
machine. Model FLOPs come from a formula, 6 x parameters used in matrix products x tokens for a
training step (two operations a parameter forward, four backward), because XLA's own count sees the
body of a loop once.
"""

from __future__ import annotations

import re
import statistics
import time
from typing import Protocol

import jax

PRODUCTS = 10  # matrix products a measurement of the rate
SIZE = 1024
MATRIX = re.compile(r"\.(kernel|(\w+_)?(down|up))(\.value)?$")


class Experiment(Protocol):
    """Compiled work that can be run again and again.

    Attributes:
      tokens: read in one run.
      flops: model FLOPs of one run.
      parameters: scalars in matrices that multiply activations.
      compile_seconds: time to compile it.
      temp_bytes: memory of its temporaries.
    """

    tokens: int
    flops: float
    parameters: int
    compile_seconds: float
    temp_bytes: int

    def __call__(self) -> float:
        """Runs once, to the end; returns seconds."""
        ...


def matmul_parameters(model) -> int:
    """Scalars in matrices that multiply activations: `kernel`s, and low rank's `down` and `up`.

    A look-up is no product.
    """
    leaves = jax.tree_util.tree_leaves_with_path(model)
    return sum(x.size for path, x in leaves if MATRIX.search(jax.tree_util.keystr(path)))


def make_rate():
    """A function that returns the float32 FLOP/s of a 1024^3 product, measured now."""
    product = jax.jit(lambda a: a @ a)
    a = jax.random.normal(jax.random.key(0), (SIZE, SIZE))
    jax.block_until_ready(product(a))

    def rate() -> float:
        start = time.perf_counter()
        for _ in range(PRODUCTS):
            jax.block_until_ready(product(a))
        return PRODUCTS * 2 * SIZE**3 / (time.perf_counter() - start)

    return rate


def measure(experiments: dict[str, Experiment], repeats: int) -> list[dict]:
    """Runs all experiments in turns, each between two measurements of the matrix rate.

    Returns a row for each: name, utilisation (median, lowest, highest), tokens_per_second,
    matmul_gflops, compile_seconds, temp_megabytes, matmul_parameters.
    """
    rate = make_rate()
    seen = {name: [] for name in experiments}
    for experiment in experiments.values():
        experiment()
    for _ in range(repeats):
        for name, experiment in experiments.items():
            before, seconds, after = rate(), experiment(), rate()
            peak = (before + after) / 2
            share = experiment.flops / seconds / peak
            seen[name].append((share, experiment.tokens / seconds, peak))
    rows = []
    for name, experiment in experiments.items():
        shares, speeds, peaks = zip(*seen[name], strict=True)
        rows.append(
            {
                "name": name,
                "utilisation": statistics.median(shares),
                "lowest": min(shares),
                "highest": max(shares),
                "tokens_per_second": statistics.median(speeds),
                "matmul_gflops": statistics.median(peaks) / 1e9,
                "compile_seconds": experiment.compile_seconds,
                "temp_megabytes": experiment.temp_bytes / 1e6,
                "matmul_parameters": experiment.parameters,
            }
        )
    return rows

"""Interleaved measurements of benchmarks, relative to the matmul rate of the machine.

utilization = model FLOPs per second / float32 rate of a 1024^3 matmul,

with the rate measured in the same process and interleaved with the work, under the same load. Model
FLOPs of a training step are 6 x matmul parameters x tokens (two operations per parameter forward,
four backward); XLA's own count sees the body of a loop only once.
"""

import re
import statistics
import time

import jax

from jaxmodels import cli

MATMULS = 10  # per measurement of the rate
SIZE = 1024
MATRIX = re.compile(r"\.(kernel|(\w+_)?(down|up))(\.value)?$")


def matmul_parameters(model) -> int:
    """Count the parameters in matmuls: `kernel`s and low-rank `down` and `up`, not embeddings."""
    leaves = jax.tree_util.tree_leaves_with_path(model)
    return sum(x.size for path, x in leaves if MATRIX.search(jax.tree_util.keystr(path)))


class Work:
    """Compiled work that can be repeated.

    Args:
      model: the model, whose parameters in matmuls count.
      function, arguments: a jitted function and its arguments.
      tokens: tokens per run.
      operations: model FLOPs per matmul parameter and token.

    Attributes:
      parameters: matmul parameters.
      flops: model FLOPs per run.
      compile_seconds: compile time.
      temp_bytes: memory of temporaries.
    """

    def __init__(self, model, function, arguments: tuple, *, tokens: int, operations: int):
        self.arguments, self.tokens = arguments, tokens
        self.parameters = matmul_parameters(model)
        self.flops = operations * self.parameters * tokens
        start = time.perf_counter()
        self.compiled = function.lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - start
        self.temp_bytes = self.compiled.memory_analysis().temp_size_in_bytes

    def __call__(self) -> float:
        """Run once, wait for the result, and return the seconds."""
        start = time.perf_counter()
        jax.block_until_ready(self.compiled(*self.arguments))
        return time.perf_counter() - start


def make_rate():
    """Return a function that measures the float32 FLOP/s of a 1024^3 matmul."""
    matmul = jax.jit(lambda a: a @ a)
    a = jax.random.normal(jax.random.key(0), (SIZE, SIZE))
    jax.block_until_ready(matmul(a))

    def rate() -> float:
        start = time.perf_counter()
        for _ in range(MATMULS):
            jax.block_until_ready(matmul(a))
        return MATMULS * 2 * SIZE**3 / (time.perf_counter() - start)

    return rate


def measure(experiments: dict[str, Work], repeats: int) -> list[dict]:
    """Run all experiments interleaved, each between two measurements of the matmul rate.

    Returns a row for each: name, utilization (median, lowest, highest), tokens_per_second,
    matmul_gflops, compile_seconds, temp_megabytes, matmul_parameters.
    """
    rate = make_rate()
    samples = {name: [] for name in experiments}
    for experiment in experiments.values():
        experiment()
    told, runs = cli.progress_counter("measuring", "runs"), repeats * len(experiments)
    for repeat in range(repeats):
        for number, (name, experiment) in enumerate(experiments.items(), 1):
            before, seconds, after = rate(), experiment(), rate()
            peak = (before + after) / 2
            utilization = experiment.flops / seconds / peak
            samples[name].append((utilization, experiment.tokens / seconds, peak))
            if told:
                told(repeat * len(experiments) + number, runs)
    rows = []
    for name, experiment in experiments.items():
        utilizations, speeds, peaks = zip(*samples[name], strict=True)
        rows.append(
            {
                "name": name,
                "utilization": statistics.median(utilizations),
                "lowest": min(utilizations),
                "highest": max(utilizations),
                "tokens_per_second": statistics.median(speeds),
                "matmul_gflops": statistics.median(peaks) / 1e9,
                "compile_seconds": experiment.compile_seconds,
                "temp_megabytes": experiment.temp_bytes / 1e6,
                "matmul_parameters": experiment.parameters,
            }
        )
    return rows

"""Command line and shared measurements of the benchmarks."""

import dataclasses

import jax
import pytest
from flax import nnx

from eval.bench import __main__ as command
from eval.bench import cells
from eval.bench.measure import matmul_parameters, measure
from jaxmodels.cells.rwkv7 import RWKV7Cell, RWKV7Config


@pytest.mark.parametrize(
    ("line", "name", "rest"),
    [
        ("", "prernk", ""),
        ("--scan --repeats 3", "prernk", "--scan --repeats 3"),
        ("prernk --scan", "prernk", "--scan"),
        ("cells --peers", "cells", "--peers"),
        ("cells --topology v5e:2x2", "tpu", "--topology v5e:2x2"),
        ("cells --cells rwkv7 --topology=v5e:2x2", "tpu", "--cells rwkv7 --topology=v5e:2x2"),
        ("tpu --batch 4", "tpu", "--batch 4"),
        ("race", "race", ""),
    ],
)
def test_command_line_selects_the_benchmark(monkeypatch, line, name, rest):
    seen = []

    class Module:
        @staticmethod
        def main(argv):
            seen.append(argv)
            return 7

    def load(module):
        seen.append(module)
        return Module

    monkeypatch.setattr(command.importlib, "import_module", load)
    assert command.main(line.split()) == 7
    assert seen == [f"eval.bench.{name}", rest.split()]


def test_unknown_benchmark_gives_a_one_line_error(capsys):
    assert command.main(["cell"]) == 2
    known = "prernk, cells, race, rnk, lengths, quantize, tpu"
    assert capsys.readouterr().err == f"error: unknown benchmark 'cell'; choose from: {known}\n"


def test_help_lists_every_benchmark(capsys):
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n    {name}" in text for name in command.BENCHMARKS)


def test_help_without_docstrings(capsys, monkeypatch):
    """As under `python -OO`."""
    monkeypatch.setattr(command, "__doc__", None)
    assert command.main(["--help"]) == 0
    assert capsys.readouterr().out.strip() == ", ".join(command.BENCHMARKS)


def test_matmul_parameters():
    config = RWKV7Config(width=32, ranks=(2, 2, 2, 3))

    def cell():
        return RWKV7Cell(config, rngs=nnx.Rngs(0))

    # r, k, v, output; decay, rate, gate. Vectors, mixes and norms are not in matmuls.
    assert matmul_parameters(jax.eval_shape(cell)) == 4 * 32 * 32 + 2 * 32 * (2 + 2 + 3)


def test_measure_utilization(monkeypatch):
    """Two interleaved experiments; the rates before and after each are averaged."""
    order = []

    @dataclasses.dataclass
    class Work:
        name: str
        seconds: float
        tokens: int = 10
        flops: float = 100.0
        parameters: int = 5
        compile_seconds: float = 1.0
        temp_bytes: int = 2_000_000

        def __call__(self):
            order.append(self.name)
            return self.seconds

    rates = iter([100.0, 300.0] * 6)
    monkeypatch.setattr("eval.bench.measure.make_rate", lambda: lambda: next(rates))
    rows = measure({"a": Work("a", 0.5), "b": Work("b", 2.0)}, 3)
    assert order == ["a", "b"] + ["a", "b"] * 3
    assert [row["utilization"] for row in rows] == [1.0, 0.25]
    later = ("prefill_", "decode_", "state_")
    shown = {key for key, _ in cells.SPEED.values() if not key.startswith(later)}
    assert shown <= rows[0].keys()
    assert [row["tokens_per_second"] for row in rows] == [20.0, 5.0]
    assert rows[0]["matmul_gflops"] == pytest.approx(200e-9)
    assert rows[0]["temp_megabytes"] == 2.0

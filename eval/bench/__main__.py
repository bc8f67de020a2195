"""`python -m eval.bench [BENCHMARK] ...`: measured speed, or predicted speed on a TPU.

    prernk   utilization of PRERNK's training step (the default)
    cells    training step, prefill and decode of every cell, optionally of peer packages
    race     validation loss against wall-clock
    rnk      RNK's training step beside its layers in PyTorch
    lengths  time and memory against sequence length, and decoding, of any models
    quantize bits per byte, bytes and speed of a run's model with int8 weights
    tpu      predicted cost of every cell's layer on a TPU; also `cells --topology v5e:2x2`

`python -m eval.bench BENCHMARK --help` lists the options of each.
"""

import importlib
import sys

from jaxmodels import cli
from jaxmodels.errors import UserError

# modules with main(argv) -> exit status, imported on demand
BENCHMARKS = ("prernk", "cells", "race", "rnk", "lengths", "quantize", "tpu")


def choose(argv: list[str]) -> tuple[str, list[str]]:
    """Return the name of the requested benchmark, and its arguments."""
    name, rest = ("prernk", argv) if not argv or argv[0].startswith("-") else (argv[0], argv[1:])
    if name == "cells" and any(argument.split("=")[0] == "--topology" for argument in rest):
        name = "tpu"
    return name, rest


@cli.command(prints=True)
def main(arguments: list[str]) -> int:
    """Run the benchmark that the command line names, and return its exit status."""
    if arguments[:1] in (["-h"], ["--help"]):
        print((__doc__ or ", ".join(BENCHMARKS)).strip())  # python -OO has none
        return 0
    name, rest = choose(arguments)
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}{cli.choose_from(BENCHMARKS)}")
    return importlib.import_module(f"eval.bench.{name}").main(rest)


if __name__ == "__main__":
    sys.exit(main())

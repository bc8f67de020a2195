"""`python -m eval.bench [BENCHMARK] ...`: speed, measured here or predicted for a TPU.

    prernk   utilisation of PRERNK's training step (the default)
    cells    training step, prefill and decode of every cell, beside the peers
    race     validation loss against wall-clock
    tpu      cost of every cell's layer on a TPU that is not there; also `cells --topology v5e:2x2`

`python -m eval.bench BENCHMARK --help` tells the options of each.
"""

from __future__ import annotations

import importlib
import sys

# name -> module with main(argv) -> exit status, imported when asked for
BENCHMARKS = {
    "prernk": "eval.bench.prernk",
    "cells": "eval.bench.cells",
    "race": "eval.bench.race",
    "tpu": "eval.bench.tpu",
}


def choose(argv: list[str]) -> tuple[str, list[str]]:
    """The name of the benchmark that a command line asks for, and the arguments left to it."""
    name, rest = ("prernk", argv) if not argv or argv[0].startswith("-") else (argv[0], argv[1:])
    if name == "cells" and any(argument.split("=")[0] == "--topology" for argument in rest):
        name = "tpu"
    return name, rest


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    name, rest = choose(argv)
    if name not in BENCHMARKS:
        print(f"error: unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    from jaxmodels.xla_flags import set_safe_flags

    set_safe_flags()
    return importlib.import_module(BENCHMARKS[name]).main(rest)


if __name__ == "__main__":
    sys.exit(main())

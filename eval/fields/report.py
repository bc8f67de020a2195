"""The run of all checks of a field, and their tables."""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from eval.fields import table, verify
from eval.log import device_description, versions
from eval.report.document import Block, Heading, Text
from eval.report.field_page import tables
from eval.report.run_page import write_report
from eval.run import load_run
from jaxmodels.cli import write_json
from jaxmodels.data import subsample
from jaxmodels.errors import UserError
from jaxmodels.models.hft.model import HFT


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Check a run's field and return the result.

    Raises:
      UserError: no run, or one of another model; too few contexts.
    """
    if options.contexts < 512 or options.examples < 0:
        raise UserError(
            f"--contexts must be 512 or more, --examples 0 or more; got {options.contexts} and "
            f"{options.examples}"
        )
    start = time.perf_counter()
    trained = load_run(options.workdir, checkpoint=options.checkpoint)
    model = trained.model
    if not isinstance(model, HFT):
        raise UserError(f"--workdir={options.workdir}: model {trained.config.model!r} has no field")
    half = options.contexts // 2
    held = table.held_out(
        model, (subsample(trained.corpus.valid, half), subsample(trained.corpus.test, half))
    )
    c, n = model.config, held.chosen
    inputs = held.inputs[:n]
    result = {
        "command": command,
        "model": trained.config.model,
        "step": trained.step,
        "seed": trained.config.seed,
        "contexts": {"valid": n, "test": len(held.targets) - n},
        "sketches": verify.sketch_check(
            c, held.windows[:n], held.positions[:n], np.asarray(held.features[:n])
        ),
        "tensors": verify.tensor_check(c.predictor, model.field, inputs),
        "locality": {"trained": verify.locality_check(c.predictor, model.field, inputs)},
        "features_r2": verify.regression_r2(
            np.asarray(held.features[:n]), np.asarray(held.logits[:n])
        ),
        "relocation": verify.relocation_check(c, model.field, inputs, held.targets[:n]),
    }
    result["locality"] |= {
        f"random, {kind}": shares
        for kind, shares in verify.random_locality(c.predictor, np.asarray(inputs)).items()
    }
    result["bits"] = {"hft": held.field_row()}
    if options.examples:
        result["bits"] |= table.head_rows(trained, held, options.examples, options.heads)
        result["examples"] = table.steps_of(options.examples) * table.ROWS * table.TIME
    result["bits"] |= table.peer_rows(trained, options.peer, options.peer_checkpoint, held)
    result |= {
        "device": device_description(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return result


def store(options: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """Write `field.json` and the report; return their paths."""
    path = Path(options.workdir) / "field.json"
    write_json(path, result)
    return [str(path), str(write_report(options.workdir))]


def summary(result: dict[str, Any]) -> list[Block]:
    """Format a result as tables."""
    title = f"{result['model']}, step {result['step']}"
    end = f"{result['seconds']:.0f} s on {result['device']}"
    return [Heading(title), *tables(result), Text(end, "missing")]

"""`python -m eval.bench quantize`: what int8 weights cost and save.

    python -m eval.bench quantize --workdir=RUN [--rows 1 8 64] [--max-bytes N] [--json FILE]

A run's model as trained, and with `jaxmodels.quantize`: bits per byte of the test split, bytes of
arrays, and per number of rows tokens per second of greedy decoding (median of interleaved runs, in
one compiled loop) with the temporary memory of that program. Where XLA does not fuse the conversion
into the matmul, as on a CPU, the float matrix is made anew for every token.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodels
from eval.bench.record import Record
from eval.report.document import Heading, Table, to_terminal
from jaxmodels import cli
from jaxmodels.data import subsample
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from jaxmodels.quantized import num_bytes
from train.devices.malloc import keep_freed_memory

DECODED = 256  # tokens per measurement


@cli.command()
def main(arguments: list[str]) -> None:
    """Measure and print a table."""
    parser = cli.parser("eval.bench quantize", __doc__, workdir=cli.RUN, checkpoint=True)
    add = parser.add_argument
    add("--rows", nargs="+", type=int, default=[1, 8, 64], help="rows that are decoded together")
    add("--repeats", type=int, default=5, help="number of measurements")
    add("--max-bytes", type=int, help="limit of the text that is read")
    add("--json", action=cli.NewFile, metavar="FILE", help="write the results to this file")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or min(options.rows) < 1:
        raise UserError("--repeats and --rows must be 1 or more")
    record = Record("quantize", arguments)
    keep_freed_memory()
    from eval.evaluators.text import evaluate
    from eval.run import load_run

    run = load_run(options.workdir, checkpoint=options.checkpoint, base=options.base)
    if traits_of(run.model).step is None:
        raise UserError(f"--workdir={options.workdir}: the model does not read left to right")
    models = {"float32": run.model, "int8": jaxmodels.quantize(run.model)}
    documents = subsample(run.corpus.test or run.corpus.valid, options.max_bytes)
    result: dict[str, Any] = {"model": run.config.model, "step": run.step}
    result["parameters"] = jaxmodels.count_parameters(run.model)
    for name, model in models.items():
        scores = evaluate(model, documents).means
        result[name] = {"bits_per_byte": scores["bits_per_byte"], "bytes": num_bytes(model)}
    for rows in options.rows:
        for name, measured in decoding(models, rows, options.repeats).items():
            result[name].setdefault("decoding", {})[str(rows)] = measured
    to_terminal(_tables(result, options.rows))
    record.write(options.json, result)


def decoding(models: dict[str, Any], rows: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Return tokens per second, their measurements and temporary bytes, for each model."""
    programs, found = {}, {}
    for name, model in models.items():
        state = model.initial_state(rows)
        compiled = jax.jit(_decode).lower(model, state).compile()
        jax.block_until_ready(compiled(model, state))
        programs[name] = compiled, model, state
        memory = compiled.memory_analysis().temp_size_in_bytes
        found[name] = {"temp_bytes": memory, "seconds": []}
    for _ in range(repeats):
        for name, (compiled, model, state) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled(model, state))
            found[name]["seconds"].append(round(time.perf_counter() - start, 5))
    for measured in found.values():
        rate = rows * DECODED / statistics.median(measured["seconds"])
        measured["tokens_per_second"] = round(rate, 1)
    return found


def _decode(model, state):
    def step(carry, _):
        state, token = carry
        state, out = model.step(state, token)
        return (state, out.logits.argmax(-1).astype(jnp.int32)), token

    rows = jax.tree.leaves(state)[0].shape[0]
    return jax.lax.scan(step, (state, jnp.ones((rows,), jnp.int32)), None, DECODED)


def _tables(result: dict[str, Any], rows: list[int]) -> list:
    names = ("float32", "int8")
    table = [
        ["bits per byte", *(f"{result[name]['bits_per_byte']:.4f}" for name in names)],
        ["bytes of arrays", *(f"{result[name]['bytes']:,}" for name in names)],
    ]
    for count in map(str, rows):
        measured = [result[name]["decoding"][count] for name in names]
        rates = [f"{x['tokens_per_second']:,.0f}" for x in measured]
        temporary = [f"{x['temp_bytes']:,}" for x in measured]
        unit = "row" if count == "1" else "rows"
        table.append([f"tokens per second, {count} {unit}", *rates])
        table.append([f"temporary bytes, {count} {unit}", *temporary])
    return [Heading("Weights"), Table(["", *names], table)]

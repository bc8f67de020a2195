"""`python -m eval.bench lengths`: time and memory against sequence length, and speed of decoding.

    python -m eval.bench lengths --models rnk mamba/2 [--lengths 256 1024 4096 16384]
                                 [--set mamba/2 FIELD=VALUE ...] [--json FILE]
    python -m eval.bench lengths --models hrlm@whole hrlm@near --set hrlm@near window=128

Per model and length: the gradient of the loss of one row of random bytes, its time (median of
interleaved runs) and its temporary memory (of the compiled program); and the slope of log time and
log memory between the last two lengths, 1 if linear. Per model that reads left to right: bytes per
second of greedy decoding with one row, by `lax.scan` over the model's step. What follows an @ tells
apart models of one name.
"""

import ast
import math
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodels
from eval.bench.record import Record
from eval.report.document import Heading, Table, to_terminal
from jaxmodels import cli
from jaxmodels.errors import UserError
from jaxmodels.models.contract import loss_weights, target_counts, traits_of
from train.devices.malloc import keep_freed_memory

DECODED = 512  # bytes per measurement


@cli.command(prints=True)
def main(arguments: list[str]) -> None:
    """Measure and print two tables."""
    parser = cli.parser("eval.bench lengths", __doc__)
    add = parser.add_argument
    add("--models", nargs="+", default=["rnk", "mamba/2"], help="names, NAME or NAME@LABEL")
    add("--lengths", nargs="+", type=int, default=[256, 1024, 4096, 16384], help="tokens of a row")
    pairs = "MODEL FIELD=VALUE"
    add("--set", nargs="+", action="append", metavar=pairs, default=[], help="fields of a model")
    add("--repeats", type=int, default=5, help="number of measurements")
    add("--json", action=cli.NewFile, metavar="FILE", help="write the results to this file")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or min(options.lengths) < 1:
        raise UserError("--repeats and --lengths must be 1 or more")
    fields: dict[str, dict[str, Any]] = {}
    for name, *pairs in options.set:
        fields[name] = fields.get(name, {}) | _fields(name, pairs, options.models)
    lengths = sorted(options.lengths)
    models = {
        (name, length): _model(name, fields.get(name, {}), length)
        for length in lengths
        for name in options.models
    }
    last = {name: models[name, lengths[-1]] for name in options.models}
    for name, model in last.items():
        if traits_of(model).local_update:
            raise UserError(f"--models: {name} learns without gradients, which are measured here")
    record = Record("lengths", arguments)
    keep_freed_memory()
    result = {
        "rows": gradients(models, options.repeats),
        "decoding": decoding({n: x for n, x in last.items() if traits_of(x).step}, options.repeats),
        "parameters": {name: jaxmodels.count_parameters(model) for name, model in last.items()},
    }
    to_terminal(_tables(result))
    record.write(options.json, result)


def _model(name, fields, length):
    """Return a model for rows of a length."""
    model, given = name.partition("@")[0], {"vocab_size": 256} | fields
    if hasattr(jaxmodels.make_config(model), "seq_len"):
        given |= {"seq_len": length}
    return jaxmodels.create(model, **given)


def _fields(name: str, pairs: list[str], names: list[str]) -> dict[str, Any]:
    if name not in names or not pairs or not all("=" in pair for pair in pairs):
        raise UserError(f"--set {name}: expected --set MODEL FIELD=VALUE with one of --models")
    fields = {}
    for field, _, value in (pair.partition("=") for pair in pairs):
        try:
            fields[field] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            fields[field] = value
    return fields


def gradients(models: dict[tuple[str, int], Any], repeats: int) -> list[dict[str, Any]]:
    """Measure the gradient of the loss of one row; one dict per model and length."""
    runs = []
    for (name, length), model in models.items():
        batch = _batch(length)
        compiled = jax.jit(jax.grad(_loss)).lower(model, batch).compile()
        memory = compiled.memory_analysis().temp_size_in_bytes
        row = {"model": name, "length": length, "temp_bytes": memory, "seconds": []}
        jax.block_until_ready(compiled(model, batch))
        runs.append((row, compiled, model, batch))
    for _ in range(repeats):
        for row, compiled, model, batch in runs:
            start = time.perf_counter()
            jax.block_until_ready(compiled(model, batch))
            row["seconds"].append(round(time.perf_counter() - start, 5))
    rows = [row | {"median_seconds": statistics.median(row["seconds"])} for row, *_ in runs]
    for row in rows:
        row["tokens_per_second"] = row["length"] / row["median_seconds"]
    return rows


def decoding(models: dict[str, Any], repeats: int) -> dict[str, float]:
    """Return the median tokens per second of greedy decoding with one row, for each model."""
    decode = jax.jit(_decode)
    states = {name: model.initial_state(1) for name, model in models.items()}
    for name, model in models.items():
        jax.block_until_ready(decode(model, states[name]))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            start = time.perf_counter()
            jax.block_until_ready(decode(model, states[name]))
            seconds[name].append(time.perf_counter() - start)
    return {name: DECODED / statistics.median(values) for name, values in seconds.items()}


def _decode(model, state):
    def step(carry, _):
        state, token = carry
        state, out = model.step(state, token)
        return (state, out.logits.argmax(-1).astype(jnp.int32)), token

    first = jnp.full((1,), ord("a"), jnp.int32)
    return jax.lax.scan(step, (state, first), None, DECODED)


def _batch(length: int) -> dict[str, jax.Array]:
    tokens = jax.random.randint(jax.random.key(0), (1, length + 1), 32, 127, jnp.int32)
    weights = jnp.ones((1, length), jnp.float32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def _loss(model, batch):
    _, sums = model.loss_sums(model.initial_state(1), batch, jax.random.key(0))
    counts = target_counts(model, batch)
    weights = loss_weights(model, jnp.float32(0.0))
    return sum(w * sums[name] / jnp.maximum(counts[name], 1.0) for name, w in weights.items())


def slope(rows: list[dict[str, Any]], key: str) -> float | None:
    """Return the slope of log(row[key]) against log length between the last two lengths."""
    *_, one, other = [None, None, *sorted(rows, key=lambda row: row["length"])]
    if one is None or one["length"] == other["length"]:
        return None
    return math.log(other[key] / one[key]) / math.log(other["length"] / one["length"])


def _tables(result: dict[str, Any]) -> list:
    rows = [
        [
            row["model"],
            f"{row['length']:,}",
            f"{1e3 * row['median_seconds']:,.0f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['temp_bytes'] / 2**20:,.1f}",
        ]
        for row in result["rows"]
    ]
    header = ["model", "length", "ms", "tokens/s", "temporary MiB"]
    blocks = [Heading("Gradient of the loss of one row"), Table(header, rows)]
    summary = []
    for name in result["parameters"]:
        mine = [row for row in result["rows"] if row["model"] == name]
        slopes = [slope(mine, key) for key in ("median_seconds", "temp_bytes")]
        words = ["-" if value is None else f"{value:.2f}" for value in slopes]
        speed = result["decoding"].get(name)
        words.append("-" if speed is None else f"{speed:,.0f}")
        summary.append([name, f"{result['parameters'][name]:,}", *words])
    header = ["model", "parameters", "slope of time", "slope of memory", "decoded tokens/s"]
    return [*blocks, Heading("Growth, and decoding"), Table(header, summary)]

"""`python -m eval.bench cells`: training step, prefill and decode of every cell.

Every model has 6 layers of width 256 and a vocabulary of 97. A training step reads 8 x 256 tokens
(float32, forward, backward, AdamW) in four micro-batches. `eval/bench/measure.py` defines
utilization; prefill counts 2 operations per parameter and token. --peers adds the same step of PyPI
packages, interleaved with ours (`eval/bench/peers/`); --topology predicts the cost on a TPU
instead (`eval/bench/tpu.py`).
"""

import contextlib
import statistics
import sys

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

import jaxmodels
from eval.bench.measure import Work, measure
from eval.bench.peers import PEERS, start_peers
from eval.bench.prernk import Experiment
from eval.bench.record import Record
from eval.log import device_description
from eval.report.document import Heading, Table, to_terminal
from jaxmodels import cli
from jaxmodels.errors import UserError
from train.config import complete_config
from train.devices.malloc import keep_freed_memory

BATCH, TIME, VOCAB, WIDTH, LAYERS = 8, 256, 97, 256, 6
# cell -> (model, fields of its config)
ENTRANTS = {
    "rwkv4": ("rwkv", {"version": 4}),
    "rwkv6": ("rwkv", {"version": 6}),
    "rwkv7": ("rwkv", {"version": 7}),
    "mamba1": ("mamba", {"version": 1}),
    "mamba2": ("mamba", {"version": 2}),
    "gated_delta": ("stack", {"cell": "gated_delta"}),
    "attention": ("transformer", {}),
    # 11 layers have as many matmul parameters as 6 of rwkv7. Only in the speed table.
    "mamba2-deep": ("mamba", {"version": 2, "num_layers": 11}),
}
# Four micro-batches fit the CPU cache. (Additional remat only speeds up rwkv7, by 4 %.)
ACCUMULATE = 4


def experiment_config(
    cell: str, batch: int = BATCH, time: int = TIME, accumulate: int = 1, **changes
):
    """Return the complete experiment config of an entrant; `changes` are model fields."""
    model, fields = ENTRANTS[cell]
    sizes = {"vocab_size": VOCAB, "width": WIDTH, "num_layers": LAYERS}
    return complete_config(
        {
            "model": model,
            "model_config": {**sizes, **fields, **changes},
            "batch_size": batch,
            "seq_len": time,
            "optimizer": {"name": "adamw", "weight_decay": 0.1, "accumulate": accumulate},
        }
    )


def prefill(cell: str, batch: int = BATCH, time: int = TIME, **changes) -> Work:
    """Make a forward pass over (batch, time) tokens from the initial state, with all logits."""
    model = _model(experiment_config(cell, batch, time, **changes))
    inputs = jax.random.randint(jax.random.key(1), (batch, time), 0, VOCAB)
    arguments = model, model.initial_state(batch), inputs
    return Work(model, jax.jit(_forward), arguments, tokens=batch * time, operations=2)


def decode(cell: str, position: int = 0) -> Work:
    """Make 32 greedy `step`s of one sequence, from a position in it."""
    model = _model(experiment_config(cell))
    state = model.initial_state(1)
    if position:
        tokens = jax.random.randint(jax.random.key(1), (1, position), 0, VOCAB)
        state, _ = jax.jit(_forward)(model, state, tokens)

    def steps(model, state, token):
        def body(carry, _):
            state, token = carry
            state, out = model.step(state, token)
            return (state, jnp.argmax(out.logits, -1).astype(jnp.int32)), None

        return jax.lax.scan(body, (state, token), None, length=32)[0]

    arguments = model, state, jnp.zeros((1,), jnp.int32)
    return Work(model, jax.jit(steps), arguments, tokens=32, operations=2)


def _model(config):
    return jaxmodels.create(config.model, **config.model_config.to_dict())


def _forward(model, state, tokens):
    return model(state, tokens)


def speed(cells: list[str], peers: list[str], repeats: int) -> list[dict]:
    """Measure training steps of cells and peers, then prefill, then decode; return the rows."""
    experiments = {}
    for cell in cells:
        print(f"compiling {cell}", file=sys.stderr, flush=True)
        experiments[cell] = Experiment(experiment_config(cell, accumulate=ACCUMULATE))
    workers = start_peers(peers, BATCH, TIME, VOCAB, WIDTH, LAYERS)
    rows = {row["name"]: row for row in measure(experiments | workers, repeats)}
    for worker in workers.values():
        worker.close()
    decoders = {cell: decode(cell) for cell in cells}
    for kind, works in (("prefill", {c: prefill(c) for c in cells}), ("decode", decoders)):
        for measured in measure(works, repeats):
            for name in ("tokens_per_second", "utilization"):
                rows[measured["name"]][f"{kind}_{name}"] = measured[name]
    for cell, work in decoders.items():
        rows[cell]["state_bytes"] = sum(x.nbytes for x in jax.tree.leaves(work.arguments[1]))
    return list(rows.values())


def lengths(cells: list[str], repeats: int) -> list[dict]:
    """Measure the ratio of the times per token at length 16,384 and 256.

    Training uses equal tokens per step, the 64 short sequences as micro-batches of one, with
    `remat_chunk` of 256 tokens ("training") or `remat` ("at once"). Prefill uses `remat_chunk`;
    decode compares the two positions.
    """
    short, long = TIME, 64 * TIME
    rows = []
    for cell in cells:
        print(f"lengths of {cell}", file=sys.stderr, flush=True)

        def train(length, cell=cell, **changes):
            rows = long // length
            return Experiment(experiment_config(cell, rows, length, accumulate=rows, **changes))

        pairs = {
            "training": lambda: [train(n, remat_chunk=short) for n in (short, long)],
            "at once": lambda: [train(n, remat=True) for n in (short, long)],
            "prefill": lambda cell=cell: [
                prefill(cell, 1, n, remat_chunk=short) for n in (short, long)
            ],
            "decode": lambda cell=cell: [decode(cell, position) for position in (0, long)],
        }
        medians = {}
        for kind, make in pairs.items():
            first, second = make()
            times = 16 if kind == "prefill" else 1
            first(), second()
            ratios = []
            for _ in range(repeats):
                a, b = sum(first() for _ in range(times)) / times, second()
                ratios.append((b / second.tokens) / (a / first.tokens))
            medians[kind] = statistics.median(ratios)
        rows.append({"name": cell, **medians})
    return rows


def depths(cells: list[str]) -> list[dict]:
    """Measure compile times of the training step with 6 and 24 layers, interleaved, three times."""
    rows = []
    with _nothing_kept():
        for cell in cells:
            print(f"depths of {cell}", file=sys.stderr, flush=True)
            seconds = {6: [], 24: []}
            for _ in range(3):
                for depth, times in seconds.items():
                    jax.clear_caches()
                    config = experiment_config(cell, 2, 128, num_layers=depth)
                    times.append(Experiment(config).compile_seconds)
            few, many = map(statistics.median, seconds.values())
            rows.append({"name": cell, "6": few, "24": many, "ratio": many / few})
    return rows


@contextlib.contextmanager
def _nothing_kept():
    """Let every program be compiled, none be read from the disk."""
    kept = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()  # which reads the setting once
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)
        compilation_cache.reset_cache()


def show(title: str, rows: list[dict], columns: dict[str, tuple[str, str]]) -> None:
    """Print rows as a table; columns: heading -> (key, format). Missing values are a dash."""
    cells = []
    for row in rows:
        values = [(row.get(key), form) for key, form in columns.values()]
        cells.append([row["name"]])
        cells[-1] += ["-" if value is None else format(value, form) for value, form in values]
    to_terminal([Heading(title), Table(["", *columns], cells)], width=110)


SPEED = {
    "train tokens/s": ("tokens_per_second", ",.0f"),
    "utilization": ("utilization", ".1%"),
    "prefill tokens/s": ("prefill_tokens_per_second", ",.0f"),
    "decode tokens/s": ("decode_tokens_per_second", ",.0f"),
    "state bytes": ("state_bytes", ",d"),
    "in matmuls": ("matmul_parameters", ",d"),
    "compile s": ("compile_seconds", ".1f"),
    "temp MB": ("temp_megabytes", ",.0f"),
}
LENGTHS = {kind: (kind, ".2f") for kind in ("training", "at once", "prefill", "decode")}
DEPTHS = {"6 layers, s": ("6", ".1f"), "24 layers, s": ("24", ".1f"), "ratio": ("ratio", ".2f")}


@cli.command(prints=True)
def main(arguments: list[str]) -> None:
    """Measure the named cells and print tables."""
    parser = cli.parser("eval.bench cells", __doc__)
    parser.add_argument("--cells", nargs="+", default=list(ENTRANTS), help=", ".join(ENTRANTS))
    parser.add_argument(
        "--peers", nargs="*", metavar="PEER", help=f"add packages: {', '.join(PEERS)}"
    )
    parser.add_argument("--repeats", type=int, default=9, help="number of measurements")
    parser.add_argument("--lengths", action="store_true", help="time per token at 256 and 16,384")
    parser.add_argument("--depths", action="store_true", help="compile time at 6 and 24 layers")
    parser.add_argument(
        "--topology", metavar="NAME", help="predict for a TPU, e.g. v5e:2x2; options: tpu -h"
    )
    file = {"metavar": "FILE", "action": cli.NewFile}
    parser.add_argument("--json", **file, help="write the results to this file")
    args = parser.parse_args(arguments)
    result = {}
    for cell in args.cells:
        if cell not in ENTRANTS:
            raise UserError(f"--cells: no {cell!r}{cli.did_you_mean(cell, ENTRANTS)}")
    record, kept = Record("cells", arguments), keep_freed_memory()
    peers = [] if args.peers is None else args.peers or list(PEERS)
    if not (args.lengths or args.depths):
        result["speed"] = speed(args.cells, peers, args.repeats)
        title = f"{LAYERS} layers, width {WIDTH}, {BATCH} x {TIME} tokens, float32"
        show(title, result["speed"], SPEED)
    cells = [cell for cell in args.cells if cell != "mamba2-deep"]
    if args.lengths:
        result["lengths"] = lengths(cells, args.repeats)
        show("time per token, 16,384 over 256", result["lengths"], LENGTHS)
    if args.depths:
        result["depths"] = depths(cells)
        show("compile time of the training step", result["depths"], DEPTHS)
    device = device_description()
    memory = "kept" if kept else "returned"
    print(f"jax {jax.__version__}, {device}, medians of {args.repeats}, freed memory {memory}")
    record.write(args.json, result)

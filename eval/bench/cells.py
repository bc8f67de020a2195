"""`python -m eval.bench cells`: training step, prefill and decode of every cell.

Every model has 6 layers of width 256 and a vocabulary of 97. A training step reads 8 x 256 tokens
(float32, forward, backward, AdamW) in four micro-batches. `eval/bench/measure.py` defines
utilisation; prefill counts 2 operations per parameter and token. --peers adds the same step of PyPI
packages, interleaved with ours (`eval/bench/peers.py`); --topology predicts the cost on a TPU
instead (`eval/bench/tpu.py`).
"""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp

import jaxmodels
from eval.bench.measure import matmul_parameters, measure
from eval.bench.peers import PEERS, start_peers
from eval.bench.prernk import Experiment
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


class Prefill:
    """Forward pass over (batch, time) tokens from the initial state, with all logits."""

    def __init__(self, cell: str, batch: int = BATCH, time: int = TIME, **changes):
        config = experiment_config(cell, batch, time, **changes)
        fields = config.model_config.to_dict()
        self.model = jaxmodels.create(config.model, **fields)
        self.state = self.model.initial_state(batch)
        self.inputs = jax.random.randint(jax.random.key(1), (batch, time), 0, VOCAB)
        self.parameters = matmul_parameters(self.model)
        self.tokens = batch * time
        self.flops = 2 * self.parameters * self.tokens
        begun = _now()
        forward = jax.jit(lambda model, state, tokens: model(state, tokens))
        self.run = forward.lower(self.model, self.state, self.inputs).compile()
        self.compile_seconds = _now() - begun
        self.temp_bytes = self.run.memory_analysis().temp_size_in_bytes

    def __call__(self) -> float:
        """Run once and return the seconds."""
        begun = _now()
        jax.block_until_ready(self.run(self.model, self.state, self.inputs))
        return _now() - begun


class Decode:
    """32 greedy `step`s of one sequence, from a position in it."""

    STEPS = 32

    def __init__(self, cell: str, position: int = 0):
        config = experiment_config(cell)
        self.model = jaxmodels.create(config.model, **config.model_config.to_dict())
        self.state = self.model.initial_state(1)
        self.state_bytes = sum(x.nbytes for x in jax.tree.leaves(self.state))
        if position:
            tokens = jax.random.randint(jax.random.key(1), (1, position), 0, VOCAB)
            self.state, _ = jax.jit(lambda m, s, t: m(s, t))(self.model, self.state, tokens)
        self.parameters = matmul_parameters(self.model)
        self.tokens = self.STEPS
        self.flops = 2 * self.parameters * self.STEPS

        def decode(model, state, token):
            def body(carry, _):
                state, token = carry
                state, out = model.step(state, token)
                return (state, jnp.argmax(out.logits, -1).astype(jnp.int32)), None

            return jax.lax.scan(body, (state, token), None, length=self.STEPS)[0]

        token = jnp.zeros((1,), jnp.int32)
        begun = _now()
        self.run = jax.jit(decode).lower(self.model, self.state, token).compile()
        self.compile_seconds = _now() - begun
        self.temp_bytes = self.run.memory_analysis().temp_size_in_bytes
        self.token = token

    def __call__(self) -> float:
        """Run once and return the seconds."""
        begun = _now()
        jax.block_until_ready(self.run(self.model, self.state, self.token))
        return _now() - begun


def _now() -> float:
    return time.perf_counter()


def speed(cells: list[str], peers: list[str], repeats: int) -> list[dict]:
    """Measure training steps of cells and peers, then prefill, then decode; return the rows."""
    experiments = {}
    for cell in cells:
        print(f"compiling {cell}", file=sys.stderr, flush=True)
        experiments[cell] = Experiment(experiment_config(cell, accumulate=ACCUMULATE))
    experiments |= start_peers(peers, BATCH, TIME, VOCAB, WIDTH, LAYERS)
    rows = measure(experiments, repeats)
    for experiment in experiments.values():
        getattr(experiment, "close", lambda: None)()
    prefill = measure({cell: Prefill(cell) for cell in cells}, repeats)
    decoders = {cell: Decode(cell) for cell in cells}
    decode = measure(decoders, repeats)
    for row in rows:
        for kind, others in (("prefill", prefill), ("decode", decode)):
            for other in others:
                if other["name"] == row["name"]:
                    row[f"{kind}_tokens_per_second"] = other["tokens_per_second"]
                    row[f"{kind}_utilisation"] = other["utilisation"]
        if row["name"] in decoders:
            row["state_bytes"] = decoders[row["name"]].state_bytes
    return rows


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
                Prefill(cell, 1, n, remat_chunk=short) for n in (short, long)
            ],
            "decode": lambda cell=cell: [Decode(cell, position) for position in (0, long)],
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
    "utilisation": ("utilisation", ".1%"),
    "prefill tokens/s": ("prefill_tokens_per_second", ",.0f"),
    "decode tokens/s": ("decode_tokens_per_second", ",.0f"),
    "state bytes": ("state_bytes", ",d"),
    "in matmuls": ("matmul_parameters", ",d"),
    "compile s": ("compile_seconds", ".1f"),
    "temp MB": ("temp_megabytes", ",.0f"),
}
LENGTHS = {kind: (kind, ".2f") for kind in ("training", "at once", "prefill", "decode")}
DEPTHS = {"6 layers, s": ("6", ".1f"), "24 layers, s": ("24", ".1f"), "ratio": ("ratio", ".2f")}


@cli.command()
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
    parser.add_argument("--json", metavar="FILE", help="write the results to this file")
    args = parser.parse_args(arguments)
    result = {}
    for cell in args.cells:
        if cell not in ENTRANTS:
            raise UserError(f"--cells: no {cell!r}{cli.did_you_mean(cell, ENTRANTS)}")
    kept = keep_freed_memory()
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
    if args.json:
        text = json.dumps({"jax": jax.__version__, "device": device, **result}, indent=2)
        cli.write_atomically(args.json, text + "\n")

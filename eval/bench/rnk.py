"""`python -m eval.bench rnk`: RNK's training step beside the same layers in PyTorch.

    python -m eval.bench rnk [--peers] [--dtypes float32 bfloat16] [--json FILE]

The source's layout with its seven losses (5,398,282 parameters) and `rnk/base`: forward, backward,
clipping and AdamW on 16 x 256 bytes, interleaved. --peers adds PyTorch (`eval/bench/peers/rnk.py`),
under autocast for bfloat16, with as many threads as this process has cores; `taskset -c 0` gives
both one. CPU time is that of all threads, and means something on a busy machine, too. Operations
are those of the traced program (`eval/sweep/compute.py`); their rate is a share of that of a 1024^3
float32 matmul.
"""

import os
import statistics
import sys
import time

import jax
import numpy as np

import jaxmodels
from eval.bench.measure import make_rate
from eval.bench.peers import start_peers
from eval.bench.prernk import Experiment
from eval.bench.record import Record
from eval.report.document import Heading, Table, to_terminal
from eval.sweep.compute import step_flops
from jaxmodels import cli
from jaxmodels.errors import UserError
from train.config import complete_config
from train.devices.malloc import keep_freed_memory

BATCH, TIME, VOCAB, WIDTH, LAYERS = 16, 256, 256, 256, 3
PROMPT = TIME // 4
DTYPES = ("float32", "bfloat16")
WEIGHTS = {"intent": 0.5, "latent": 1.0, "contrastive": 1.0, "relevance": 0.5}  # the source's
MODELS = {
    "as written": ("rnk/as_written", {f"{name}_weight": w for name, w in WEIGHTS.items()}),
    "base": ("rnk", {}),
}


def experiment(name: str, dtype: str) -> Experiment:
    """Compile the training step of one of `MODELS`."""
    model, fields = MODELS[name]
    config = complete_config(
        {
            "model": model,
            "model_config": {"vocab_size": VOCAB, **fields},
            "dtype": dtype,
            "batch_size": BATCH,
            "seq_len": TIME,
            "optimizer": {"name": "adamw", "weight_decay": 0.01},
        }
    )
    work = Experiment(config, batch=exchanges())
    work.flops = step_flops(config)
    return work


def exchanges() -> dict[str, np.ndarray]:
    """Return a batch of random letters: rows of a prompt, a response and their labels."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(ord("a"), ord("z"), (BATCH, TIME + 1), np.int32)
    tokens[:, PROMPT - 1], tokens[:, TIME] = VOCAB - 2, VOCAB - 3
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.tile((np.arange(TIME) >= PROMPT - 1).astype(np.float32), (BATCH, 1)),
        "reset": np.zeros((BATCH, TIME), bool),
        "intent": rng.integers(0, 7, BATCH, np.int32),
        "answerable": rng.integers(0, 2, BATCH, np.int32),
    }


def compare(works: dict, repeats: int) -> list[dict]:
    """Run all interleaved; return a row for each: medians, and those of ratios within a round.

    works: (name, dtype) -> `Experiment` or `Peer`. "faster" is the peer's time over that of a row.
    """
    rate = make_rate()
    rates, times = [], {key: [] for key in works}
    for work in works.values():
        work()
    told, runs = cli.progress_counter("measuring", "runs"), repeats * len(works)
    for _ in range(repeats):
        for number, (key, work) in enumerate(works.items(), 1):
            begun = time.process_time()
            seconds = work()
            cpu = getattr(work, "cpu_seconds", time.process_time() - begun)
            times[key].append((seconds, cpu))
            if told:
                told(len(rates) * len(works) + number, runs)
        rates.append(rate())
    peak = statistics.median(rates)
    rows = []
    for (name, dtype), samples in times.items():
        work = works[name, dtype]
        seconds, cpu = (statistics.median(column) for column in zip(*samples, strict=True))
        row = {
            "name": name,
            "dtype": dtype,
            "parameters": work.all_parameters,
            "ms": 1e3 * seconds,
            "cpu_ms": 1e3 * cpu,
            "bytes_per_second": work.tokens / seconds,
            "temp_megabytes": work.temp_bytes / 1e6,
            "samples": samples,
        }
        if isinstance(work, Experiment):
            row |= {"gflop": work.flops / 1e9, "of_matmul_rate": work.flops / seconds / peak}
        peer = times.get(("PyTorch", dtype))
        if peer and name != "PyTorch":
            pairs = list(zip(peer, samples, strict=True))
            for place, key in enumerate(("faster", "faster_cpu")):
                ratios = [theirs[place] / ours[place] for theirs, ours in pairs]
                row[key] = statistics.median(ratios)
                row[f"{key}_range"] = [min(ratios), max(ratios)]
        rows.append(row)
    return rows


COLUMNS = {
    "parameters": ("parameters", ",d"),
    "bytes/s": ("bytes_per_second", ",.0f"),
    "ms": ("ms", ",.0f"),
    "CPU ms": ("cpu_ms", ",.0f"),
    "faster": ("faster", ".2f"),
    "by CPU time": ("faster_cpu", ".2f"),
    "of matmul rate": ("of_matmul_rate", ".0%"),
    "temp MB": ("temp_megabytes", ",.0f"),
}


@cli.command(prints=True)
def main(arguments: list[str]) -> None:
    """Measure and print a table."""
    parser = cli.parser("eval.bench rnk", __doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--peers", action="store_true", help="add the layers in PyTorch")
    parser.add_argument("--repeats", type=int, default=9, help="number of measurements")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file")
    args = parser.parse_args(arguments)
    for name in args.models:
        if name not in MODELS:
            raise UserError(f"--models: no {name!r}{cli.did_you_mean(name, MODELS)}")
    record, kept = Record("rnk", arguments), keep_freed_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    works = {}
    for dtype in args.dtypes:
        for name in args.models:
            print(f"compiling {name}, {dtype}", file=sys.stderr, flush=True)
            works[name, dtype] = experiment(name, dtype)
            works[name, dtype].all_parameters = jaxmodels.count_parameters(
                works[name, dtype].arguments[0].model
            )
    names = [f"torch rnk {dtype}" for dtype in args.dtypes] if args.peers else []
    workers = start_peers(names, BATCH, TIME, VOCAB, WIDTH, LAYERS, threads=cores)
    for name, worker in workers.items():
        works["PyTorch", name.split()[-1]] = worker
    rows = compare(works, args.repeats)
    for worker in workers.values():
        worker.close()
    cells = [
        [f"{row['name']}, {row['dtype']}"]
        + [format(row[key], form) if key in row else "-" for key, form in COLUMNS.values()]
        for row in rows
    ]
    title = f"training step, {BATCH} x {TIME} bytes, {cores} cores"
    to_terminal([Heading(title), Table(["", *COLUMNS], cells)], width=120)
    memory = "kept" if kept else "returned"
    print(f"jax {jax.__version__}, medians of {args.repeats}, freed memory {memory}")
    record.write(args.json, {"cores": cores, "rows": rows})

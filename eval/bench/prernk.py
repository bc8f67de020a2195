"""`python -m eval.bench`: model-FLOPs utilization of the training step (forward, backward, AdamW).

utilization = 6 x matmul parameters x tokens/s / float32 rate of a 1024^3 matmul; see
`eval/bench/measure.py`.
"""

import time

import jax
import jax.numpy as jnp

from eval.bench.measure import Work, measure
from eval.bench.record import Record
from eval.log import device_description
from eval.report.document import Heading, Table, to_terminal
from jaxmodels import cli
from jaxmodels.cells.base import Cell
from jaxmodels.cells.unified import Readout, UnifiedCell
from jaxmodels.errors import UserError
from train.config import load_config
from train.devices.malloc import keep_freed_memory
from train.devices.placement import Placement
from train.model import build_model
from train.step import init_train_state


class Experiment(Work):
    """Compiled training step of a config, data-parallel over devices.

    It reads `batch`, by default random tokens.
    """

    def __init__(self, config, devices: int = 1, batch=None):
        place = Placement(config, jax.devices()[:devices])
        state = init_train_state(build_model(config), config)
        batch = _random_batch(config) if batch is None else batch
        arguments = place.put_state(state), place.put_rows(jax.device_get(batch))
        tokens = config.batch_size * config.seq_len
        super().__init__(state.model, place.step, arguments, tokens=tokens, operations=6)

    def __call__(self) -> float:
        """Run one step, which donates the state, and return the seconds."""
        start = time.perf_counter()
        state, metrics = self.compiled(*self.arguments)
        jax.block_until_ready(metrics["loss"])
        self.arguments = state, self.arguments[1]
        return time.perf_counter() - start


def _random_batch(config):
    shape = (config.batch_size, config.seq_len)
    inputs = jax.random.randint(jax.random.key(1), shape, 0, config.model_config.vocab_size)
    return {
        "inputs": inputs,
        "targets": jnp.roll(inputs, -1, 1),
        "weights": jnp.ones(shape),
        "reset": jnp.zeros(shape, bool),
    }


class plain_scan:
    """Context in which the unified cell runs as plain `lax.scan` over its step, as a baseline."""

    def __enter__(self):
        self.fused = UnifiedCell.unroll

        def unroll(cell, state, xs, reset=None, key=None, *, relations_every=0):
            def read(state, x, key):
                state, h = cell.step(state, x, key)
                return state, Readout(h, state.abstractions, None, state.causal_mask)

            return Cell.scan(cell, state, xs, reset, key, step=read)

        UnifiedCell.unroll = unroll

    def __exit__(self, *exc):
        UnifiedCell.unroll = self.fused


@cli.command(prints=True)
def main(arguments: list[str]) -> None:
    """Measure the training step and print a table."""
    parser = cli.parser("eval.bench prernk", __doc__)
    parser.add_argument("--config", default="configs/prernk.py", help="experiment to measure")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--repeats", type=int, default=15, help="number of measurements")
    parser.add_argument("--scan", action="store_true", help="add the plain lax.scan baseline")
    file = {"metavar": "FILE", "action": cli.NewFile}
    parser.add_argument("--json", **file, help="write the results to this file")
    parser.add_argument(
        "--return-memory", action="store_true", help="let glibc return freed memory (slower)"
    )
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="emulated CPU devices")
    args, overrides = cli.parse_with_overrides(parser, arguments)
    if args.devices < 1 or any(size % args.devices for size in args.batch_sizes):
        raise UserError(f"--devices must divide every batch size, got {args.devices}")
    if args.devices > 1:
        jax.config.update("jax_num_cpu_devices", args.devices)
    kept = not args.return_memory and keep_freed_memory()
    record, experiments = Record("prernk", arguments), {}
    for batch_size in args.batch_sizes:
        sizes = [f"--config.batch_size={batch_size}", "--config.seq_len=64"]
        config = load_config(args.config, [*overrides, *sizes])
        config.model_config.vocab_size = config.model_config.vocab_size or 256
        experiments[f"batch {batch_size}"] = Experiment(config, args.devices)
        if args.scan:
            with plain_scan():
                plain = Experiment(config, args.devices)
            experiments[f"batch {batch_size}, plain scan"] = plain
    rows = measure(experiments, args.repeats)
    header = ("", "utilization", "range", "tokens/s", "1024^3 GFLOP/s", "compile s", "temp MB")
    cells = [
        [
            row["name"],
            f"{row['utilization']:.1%}",
            f"{row['lowest']:.0%} - {row['highest']:.0%}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['matmul_gflops']:.0f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['temp_megabytes']:.0f}",
        ]
        for row in rows
    ]
    title = "training step, float32, T 64: model-FLOPs utilization"
    to_terminal([Heading(title), Table(header, cells)])
    print(
        f"jax {jax.__version__}, {device_description()}, {rows[0]['matmul_parameters']:,} "
        f"parameters in matmuls, medians of {args.repeats}, "
        f"freed memory {'kept' if kept else 'returned'}"
    )
    record.write(args.json, {"rows": rows})

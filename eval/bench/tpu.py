"""`python -m eval.bench tpu`: predicted cost of a layer of every cell on a TPU.

    python -m eval.bench cells --topology v5e:2x2
    python -m eval.bench tpu --cells rwkv7 mamba2 rwkv/7 mamba/2 --chunk-sizes 32 64 128

Compiles forward and backward pass of a layer (`jax.vjp` for parameters and inputs, with resets,
bfloat16 matmuls) for one chip of the topology, in the parallel implementation and as `lax.scan`
over the step, and sums the compiler's cycle estimates (`eval/bench/hlo.py`). Nothing is run, and
waits for asynchronous copies are not included. Estimates are deterministic, so they can be used to
choose chunk sizes.

    utilization = 6 x matmul parameters x tokens / (cycles x FLOPs per cycle)

"with recurrence" adds 3 x the operations of one step to the numerator. A model preset, e.g.
"rwkv/7", is a whole layer with norms, residuals and channel mixing; with --layers, a whole model of
so many layers: embedding, layers, head and loss.
"""

import dataclasses
import functools
import sys
import time
from pathlib import Path

import jax

from eval.bench.hlo import profile
from eval.bench.layer import chunk_size_of, compile_layer, compile_model, layer_of, model_of
from eval.bench.record import Record
from eval.bench.schedule import Kernels, size_of, twins
from eval.report.document import Heading, Table, to_terminal
from jaxmodels import cli
from jaxmodels.cells import CELLS
from jaxmodels.errors import UserError
from train.devices import aot

# generation -> (clock in Hz, peak bfloat16 FLOP/s, HBM bytes/s) per JAX device
CHIPS = {
    "v4": (1.05e9, 275e12, 1228e9),
    "v5e": (1.5e9, 197e12, 819e9),
    "v5p": (1.75e9, 459e12, 2765e9),
    "v6e": (1.75e9, 918e12, 1640e9),
}
EXCLUDED = ("unified",)  # by itself not a layer of a language model
SHORTEST, LINEAR = 64, 0.03  # first length and tolerance of `estimate_scan`


def estimate_call(name: str, options, chunk_size: int | None, device, say) -> dict:
    """Estimate the parallel implementation, halving the batch until it fits; see `_row`."""
    batch = options.batch
    while True:
        layer = _abstract(name, options, chunk_size, batch, options.time)
        try:
            compiled = _compile(layer, options, batch, device)
            break
        except aot.DoesNotFit as error:
            if options.kernels:
                options.kernels.read()  # discard the dump of the failed attempt
            if batch == 1:
                raise
            say(f"{name}: batch {batch} does not fit ({error}); trying {batch // 2}")
            batch //= 2
    _save(options, f"{name}-call-{chunk_size_of(layer.cell)}", compiled[0])
    schedules = options.kernels.read() if options.kernels else {}
    schedules |= twins(compiled[0], schedules)
    costs = profile(compiled[0], functools.partial(cost_of_kernel, schedules, options.topology))
    row = _row(name, "call", layer, batch, options, costs, costs.cycles, compiled)
    names = [cost.instruction.name for cost in costs.costs if cost.kind == "kernel"]
    return row | {"kernels": {name: dataclasses.asdict(schedules[name]) for name in names}}


def _abstract(name, options, chunk_size, batch, time):
    """Return the abstract layer or, with `options.layers`, whole model."""
    if not options.layers:
        return layer_of(name, options.width, chunk_size, batch, time, options.kernel)
    sizes = {"width": options.width, "num_layers": options.layers, "vocab_size": options.vocab}
    return model_of(name, sizes, chunk_size, batch, options.kernel)


def _compile(layer, options, batch, device):
    if options.layers:
        return compile_model(layer, batch, options.time, device)
    return compile_layer(layer, "call", batch, options.time, device)


def cost_of_kernel(schedules, topology: str, instruction, operands) -> int | None:
    """Return the cycles of a kernel: the larger of its schedule and its memory traffic."""
    schedule = schedules.get(instruction.name)
    if schedule is None:
        return None
    clock, _, bandwidth = CHIPS[aot.parse_topology(topology)[0]]
    moved = size_of(instruction.shape) + sum(map(size_of, operands))
    return max(schedule.bundles, round(moved * clock / bandwidth))


def estimate_scan(name: str, options, batch: int, device, say) -> dict:
    """Estimate the scan by linear extrapolation from short lengths.

    The residuals of thousands of steps do not fit in HBM. The cost per step is constant once the
    stacked residuals exceed VMEM, so the length is doubled until the last cost is on the line
    through the two before it (relative `deviation` within `LINEAR`) or does not fit.
    """
    lengths, cycles, deviation = [], [], None
    length = SHORTEST
    while length <= options.time and (deviation is None or abs(deviation) > LINEAR):
        layer = layer_of(name, options.width, None, batch, length)
        try:
            compiled = compile_layer(layer, "scan", batch, length, device)
        except aot.DoesNotFit as error:
            if len(lengths) < 2:
                raise
            say(f"{name}: a scan of {length} tokens does not fit ({error})")
            break
        costs = profile(compiled[0])
        lengths, cycles = [*lengths, length], [*cycles, costs.cycles]
        say(f"{name}: scan of {length} tokens, {costs.cycles:,} cycles")
        if len(lengths) > 2:
            expected = cycles[-2] + (cycles[-2] - cycles[-3]) * 2
            deviation = cycles[-1] / expected - 1.0
        longest = costs, compiled
        length *= 2
    if len(lengths) < 2:
        raise UserError(
            f"--time must be at least {2 * SHORTEST} to estimate the scan, got {options.time}"
        )
    costs, compiled = longest
    _save(options, f"{name}-scan", compiled[0])
    slope = (cycles[-1] - cycles[-2]) / (lengths[-1] - lengths[-2])
    total = cycles[-1] + slope * (options.time - lengths[-1])
    layer = layer_of(name, options.width, None, batch, options.time)
    row = _row(name, "scan", layer, batch, options, costs, total, compiled)
    return row | {"compiled_at": lengths, "deviation": deviation}


def _row(name, form, layer, batch, options, costs, cycles, compiled) -> dict:
    clock, peak, _ = CHIPS[aot.parse_topology(options.topology)[0]]
    tokens = batch * options.time
    matmuls, recurrence = (tokens * flops for flops in layer.flops)
    return {
        "cell": name,
        "form": form,
        "chunk_size": chunk_size_of(layer.cell) if form == "call" else None,
        "layers": options.layers,
        "batch": batch,
        "time": options.time,
        "cycles": round(cycles),
        "cycles_per_token": cycles / tokens,
        "milliseconds": 1e3 * cycles / clock,
        "product_flops": matmuls,
        "recurrence_flops": recurrence,
        "utilization": matmuls * clock / (cycles * peak),
        "utilization_with_recurrence": (matmuls + recurrence) * clock / (cycles * peak),
        "compile_seconds": compiled[1],
        "peak_bytes": compiled[2],
        "kinds": {kind: part / costs.cycles for kind, part in costs.by("kind").items()},
        "sources": {
            source: part / costs.cycles
            for source, part in list(costs.by("source").items())[: options.top]
        },
        "top": [
            {
                "share": cost.cycles / costs.cycles,
                "cycles": cost.cycles,
                "times": cost.times,
                "kind": cost.kind,
                "opcode": cost.instruction.opcode,
                "name": cost.instruction.name,
                "shape": cost.instruction.shape,
                "op_name": cost.instruction.op_name,
                "source": cost.source,
            }
            for cost in costs.costs[: options.top]
        ],
        "without_estimate": costs.without_estimate,
        "unknown_loops": list(costs.unknown_loops),
    }


def _save(options, name: str, program: str) -> None:
    if options.hlo:
        folder = Path(options.hlo)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name.replace('/', '-')}.txt").write_text(program)


def run(options, say) -> list[dict]:
    """Return all rows that the command line requests.

    Raises:
      UserError: invalid names, sizes or topology.
      train.devices.aot.DoesNotFit: a batch size of 1 does not fit.
    """
    options.kernels = Kernels() if options.kernel else None  # before libtpu is loaded
    try:
        return _rows(options, say)
    finally:
        if options.kernels:
            options.kernels.close()


def _rows(options, say) -> list[dict]:
    device = aot.topology_devices(options.topology)[0]
    names = options.cells or [name for name in CELLS if name not in EXCLUDED]
    if options.kernel and not options.cells:
        names = [name for name in names if hasattr(CELLS[name][0], "kernel")]
    for name in names:  # validate before compiling, which takes minutes
        _abstract(name, options, None, 1, 1)
    rows = []
    for name in names:
        chunked = chunk_size_of(_abstract(name, options, None, 1, 1).cell)
        calls = []
        for chunk_size in (options.chunk_sizes or [None]) if chunked else [None]:
            row = estimate_call(name, options, chunk_size, device, say)
            calls.append(row)
            say(
                f"{name}: chunk {row['chunk_size']}, {row['cycles']:,} cycles, "
                f"utilization {row['utilization']:.1%}, compiled in {row['compile_seconds']:.0f} s"
            )
        rows += calls
        if not (options.no_scan or options.layers):
            scan = estimate_scan(name, options, min(row["batch"] for row in calls), device, say)
            for row in calls:
                row["scan_over_call"] = scan["cycles_per_token"] / row["cycles_per_token"]
            rows.append(scan)
    return rows


def show(rows: list[dict], options) -> None:
    """Print the table, and the most expensive operations of each row."""
    generation, _ = aot.parse_topology(options.topology)
    clock, peak, _ = CHIPS[generation]
    what = f"a model of {options.layers} layers" if options.layers else "a layer"
    title = f"{what} forward and backward on one {generation} chip, predicted: width "
    title += f"{options.width}, T {options.time}, bfloat16 matmuls"
    header = ("", "form", "chunk", "batch", "Mcycles", "ms", "cycles/token", "utilization")
    header += ("with recurrence", "scan / call", "compile s", "peak GB")
    cells = [
        [
            row["cell"],
            row["form"],
            str(row["chunk_size"] or "-"),
            str(row["batch"]),
            f"{row['cycles'] / 1e6:,.1f}",
            f"{row['milliseconds']:,.1f}",
            f"{row['cycles_per_token']:,.0f}",
            f"{row['utilization']:.1%}",
            f"{row['utilization_with_recurrence']:.1%}",
            f"{row['scan_over_call']:,.1f}" if "scan_over_call" in row else "-",
            f"{row['compile_seconds']:.1f}",
            f"{row['peak_bytes'] / 1e9:.1f}" + ("" if row["form"] == "call" else " *"),
        ]
        for row in rows
    ]
    to_terminal([Heading(title), Table(header, cells, left=(0, 1))], width=140)
    for row in rows:
        chunk = f", chunk {row['chunk_size']}" if row["chunk_size"] else ""
        kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in row["kinds"].items())
        print(f"{row['cell']}, {row['form']}{chunk}: {kinds}")
        for source, share in row["sources"].items():
            print(f"  {share:6.1%}  {source}")
        print("  most expensive instructions:")
        for cost in row["top"]:
            times = f" x {cost['times']}" if cost["times"] > 1 else ""
            name = cost["op_name"].rpartition("/")[2] or cost["name"]
            print(
                f"  {cost['share']:6.1%}  {cost['kind']} {cost['opcode']}{times}, "
                f"{cost['source']}, {name} {cost['shape'][:70]}"
            )
        for name, kernel in row.get("kernels", {}).items():
            busy = sorted(kernel["busy"].items(), key=lambda item: -item[1])[:3]
            units = ", ".join(f"{unit} {share:.0%}" for unit, share in busy)
            print(f"  kernel {name}: {kernel['bundles']:,} bundles; slots used: {units}")
        if row["without_estimate"]:
            counts = ", ".join(f"{n} {name}" for name, n in row["without_estimate"].items())
            print(f"  no estimate, not counted: {counts}")
        if row["unknown_loops"]:
            print(f"  trip count unknown, counted once: {', '.join(row['unknown_loops'])}")
    for row in rows:
        if row["form"] == "scan":
            lengths = ", ".join(map(str, row["compiled_at"]))
            line = f"* {row['cell']}: scan compiled at T {lengths} (peak GB and instructions are "
            line += f"those of the last) and extrapolated linearly to {row['time']}"
            if row["deviation"] is not None:
                line += f"; the last deviates by {row['deviation']:+.1%} from the line"
            print(line)
    print(
        f"{clock / 1e9:g} GHz, {peak / 1e12:g} TFLOP/s; libtpu {aot.libtpu_version()}, "
        f"jax {jax.__version__}"
    )


@cli.command()
def main(arguments: list[str]) -> int | None:
    """Predict the cost of every cell; return 1 if a batch size of 1 does not fit."""
    parser = cli.parser(
        "eval.bench tpu",
        __doc__,
        epilog="libtpu holds a lock: run one process at a time. Install: `make install-tpu`.",
    )
    parser.add_argument("--topology", default="v5e:2x2", help=f"generations: {', '.join(CHIPS)}")
    parser.add_argument("--cells", nargs="+", metavar="NAME", help="cells, or presets like rwkv/7")
    parser.add_argument("--chunk-sizes", type=int, nargs="+", metavar="N", help="sizes to compare")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--time", type=int, default=4096, help="tokens per sequence")
    parser.add_argument(
        "--batch", type=int, default=8, help="sequences per chip; halved until it fits"
    )
    parser.add_argument(
        "--kernel", default="xla", choices=("xla", "pallas"), help="pallas: cells with TPU kernels"
    )
    parser.add_argument("--layers", type=int, metavar="N", help="whole models; presets, no scan")
    parser.add_argument("--vocab", type=int, default=32_768, help="vocabulary of --layers")
    parser.add_argument("--no-scan", action="store_true", help="skip the lax.scan baseline")
    parser.add_argument("--top", type=int, default=5, help="number of instructions to list")
    file = {"metavar": "FILE", "action": cli.NewFile}
    parser.add_argument("--json", **file, help="write the results to this file")
    parser.add_argument("--hlo", metavar="FOLDER", help="write the optimized HLO to this folder")
    options = parser.parse_args(arguments)
    options.kernel = None if options.kernel == "xla" else options.kernel
    start = time.perf_counter()

    def say(line):
        print(f"[{time.perf_counter() - start:4.0f} s] {line}", file=sys.stderr, flush=True)

    generation, _ = aot.parse_topology(options.topology)
    if generation not in CHIPS:
        raise UserError(f"--topology: unknown generation {generation}{cli.choose_from(CHIPS)}")
    if options.layers is not None and any(name in CELLS for name in options.cells or CELLS):
        raise UserError("--layers: give --cells presets of models, such as rwkv/7")
    for name in ("width", "time", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}={getattr(options, name)}: give 1 or more")
    record = Record("tpu", arguments, timed=False)
    aot.prepare_environment(aot.find_libtpu())
    jax.config.update("jax_platforms", "cpu")  # JAX has already read the environment
    try:
        rows = run(options, say)
    except aot.DoesNotFit as error:
        print(f"does not fit {options.topology}: {error}")
        return 1
    show(rows, options)
    record.write(options.json, {"topology": options.topology, "rows": rows})
    return None

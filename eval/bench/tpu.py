"""`python -m eval.bench tpu`: what a layer of every cell would cost on a TPU that is not there.

    python -m eval.bench cells --topology v5e:2x2
    python -m eval.bench tpu --cells rwkv7 mamba2 rwkv/7 mamba/2 --chunk-sizes 32 64 128

Compiles a layer, forward and backward (`jax.vjp` for parameters and inputs, resets given, products
in bfloat16), for one chip of the topology, in the fast form and as plain `lax.scan` over the step,
and adds up the compiler's own estimate of cycles (`eval/bench/hlo.py`). Nothing runs. It is a
prediction: what the compiler believes when it chooses between two programs; waiting for
asynchronous copies is not in it. It is also deterministic, so it can choose chunk sizes.

    utilisation = 6 x parameters in products x tokens / (cycles x FLOPs a cycle)

and beside it with the recurrence's own operations, 3 x those of one step, added to the numerator.
A name with a model's preset, "rwkv/7", is a whole layer: norms, residuals, channel mixing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from eval.bench.hlo import profile
from eval.bench.layer import compile_layer, layer_of
from jaxmodels.cells import CELLS
from jaxmodels.errors import UserError
from train import compile as aot

# generation -> (clock in Hz, peak bfloat16 FLOP/s) of a device as JAX sees it
CHIPS = {
    "v4": (1.05e9, 275e12),
    "v5e": (1.5e9, 197e12),
    "v5p": (1.75e9, 459e12),
    "v6e": (1.75e9, 918e12),
}
LEFT_OUT = ("unified",)  # its chunk form is no layer of a language model by itself
SCAN_TIMES = (64, 128, 256)  # lengths at which the scan is compiled


def estimate_call(name: str, wanted, chunk_size: int | None, device, say) -> dict:
    """The fast form at full length; halves the batch until it fits. -> a row, see `_row`."""
    batch = wanted.batch
    while True:
        layer = layer_of(name, wanted.width, chunk_size, batch, wanted.time)
        try:
            compiled = compile_layer(layer, "call", batch, wanted.time, device)
            break
        except aot.DoesNotFit as error:
            if batch == 1:
                raise
            say(f"{name}: batch {batch} does not fit ({error}); trying {batch // 2}")
            batch //= 2
    _save(wanted, f"{name}-call-{chunk_size}", compiled[0])
    costs = profile(compiled[0])
    return _row(name, "call", layer, batch, wanted, costs, costs.cycles, compiled)


def estimate_scan(name: str, wanted, batch: int, device, say) -> dict:
    """The plain scan: compiled at three short lengths and carried on along a straight line.

    What the backward pass keeps of 4096 steps does not fit a chip, and the loop costs the same at
    every step. `deviation`: how far the longest length lies from the line through the other two.
    """
    cycles = []
    for length in SCAN_TIMES:
        layer = layer_of(name, wanted.width, None, batch, length)
        compiled = compile_layer(layer, "scan", batch, length, device)
        costs = profile(compiled[0])
        cycles.append(costs.cycles)
        say(f"{name}: scan of {length} tokens, {costs.cycles:,} cycles")
    _save(wanted, f"{name}-scan", compiled[0])
    first, second, third = SCAN_TIMES
    slope = (cycles[1] - cycles[0]) / (second - first)
    expected = cycles[1] + slope * (third - second)
    slope = (cycles[2] - cycles[1]) / (third - second)
    total = cycles[2] + slope * (wanted.time - third)
    layer = layer_of(name, wanted.width, None, batch, wanted.time)
    row = _row(name, "scan", layer, batch, wanted, costs, total, compiled)
    return row | {"compiled_at": list(SCAN_TIMES), "deviation": cycles[2] / expected - 1.0}


def _row(name, form, layer, batch, wanted, costs, cycles, compiled) -> dict:
    clock, peak = CHIPS[aot.parse_topology(wanted.topology)[0]]
    tokens = batch * wanted.time
    products, recurrence = (tokens * flops for flops in layer.flops)
    return {
        "cell": name,
        "form": form,
        "chunk_size": getattr(layer.cell.config, "chunk_size", None) if form == "call" else None,
        "batch": batch,
        "time": wanted.time,
        "cycles": round(cycles),
        "cycles_per_token": cycles / tokens,
        "milliseconds": 1e3 * cycles / clock,
        "product_flops": products,
        "recurrence_flops": recurrence,
        "utilisation": products * clock / (cycles * peak),
        "utilisation_with_recurrence": (products + recurrence) * clock / (cycles * peak),
        "compile_seconds": compiled[1],
        "peak_bytes": compiled[2],
        "kinds": {kind: part / costs.cycles for kind, part in costs.by("kind").items()},
        "sources": {
            source: part / costs.cycles
            for source, part in list(costs.by("source").items())[: wanted.top]
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
            for cost in costs.costs[: wanted.top]
        ],
        "without_estimate": costs.without_estimate,
        "unknown_loops": list(costs.unknown_loops),
    }


def _save(wanted, name: str, program: str) -> None:
    if wanted.hlo:
        folder = Path(wanted.hlo)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name.replace('/', '-')}.txt").write_text(program)


def run(wanted, say) -> list[dict]:
    """All rows that the command line asks for.

    Raises:
      UserError: names, sizes or a topology that cannot be.
      train.compile.DoesNotFit: not even one row fits.
    """
    device = aot.topology_devices(wanted.topology)[0]
    names = wanted.cells or [name for name in CELLS if name not in LEFT_OUT]
    rows = []
    for name in names:
        chunked = hasattr(layer_of(name, wanted.width, None, 1, 1).cell.config, "chunk_size")
        found = []
        for chunk_size in (wanted.chunk_sizes or [None]) if chunked else [None]:
            row = estimate_call(name, wanted, chunk_size, device, say)
            found.append(row)
            say(
                f"{name}: chunk {row['chunk_size']}, {row['cycles']:,} cycles, "
                f"utilisation {row['utilisation']:.1%}, compiled in {row['compile_seconds']:.0f} s"
            )
        rows += found
        if not wanted.no_scan:
            scan = estimate_scan(name, wanted, min(row["batch"] for row in found), device, say)
            for row in found:
                row["scan_over_call"] = scan["cycles_per_token"] / row["cycles_per_token"]
            rows.append(scan)
    return rows


def show(rows: list[dict], wanted) -> None:
    """Prints the table and what bounds each fast form."""
    generation, _ = aot.parse_topology(wanted.topology)
    clock, peak = CHIPS[generation]
    table = Table(
        title=f"a layer forward and backward on one {generation} chip, predicted: width "
        f"{wanted.width}, T {wanted.time}, bfloat16 products"
    )
    columns = ("", "form", "chunk", "batch", "Mcycles", "ms", "cycles/token", "utilisation")
    for column in (*columns, "with recurrence", "scan / call", "compile s", "peak GB"):
        table.add_column(column, justify="left" if column in ("", "form") else "right")
    for row in rows:
        table.add_row(
            row["cell"],
            row["form"],
            str(row["chunk_size"] or "-"),
            str(row["batch"]),
            f"{row['cycles'] / 1e6:,.1f}",
            f"{row['milliseconds']:,.1f}",
            f"{row['cycles_per_token']:,.0f}",
            f"{row['utilisation']:.1%}",
            f"{row['utilisation_with_recurrence']:.1%}",
            f"{row['scan_over_call']:,.1f}" if "scan_over_call" in row else "-",
            f"{row['compile_seconds']:.1f}",
            f"{row['peak_bytes'] / 1e9:.1f}" + ("" if row["form"] == "call" else " *"),
        )
    Console(width=140).print(table)
    for row in rows:
        chunk = f", chunk {row['chunk_size']}" if row["chunk_size"] else ""
        kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in row["kinds"].items())
        print(f"{row['cell']}, {row['form']}{chunk}: {kinds}")
        for source, share in row["sources"].items():
            print(f"  {share:6.1%}  {source}")
        print("  its dearest instructions:")
        for cost in row["top"]:
            times = f" x {cost['times']}" if cost["times"] > 1 else ""
            name = cost["op_name"].rpartition("/")[2] or cost["name"]
            print(
                f"  {cost['share']:6.1%}  {cost['kind']} {cost['opcode']}{times}, "
                f"{cost['source']}, {name} {cost['shape'][:70]}"
            )
        if row["without_estimate"]:
            counts = ", ".join(f"{n} {name}" for name, n in row["without_estimate"].items())
            print(f"  no estimate, not counted: {counts}")
        if row["unknown_loops"]:
            print(f"  trip count unknown, counted once: {', '.join(row['unknown_loops'])}")
    scans = [row for row in rows if row["form"] == "scan"]
    if scans:
        worst = max(scans, key=lambda row: abs(row["deviation"]))
        lengths = ", ".join(map(str, SCAN_TIMES))
        print(
            f"* scan compiled at T {lengths} (peak GB and what bounds it: at T {SCAN_TIMES[-1]}) "
            f"and carried on to {wanted.time} along a line; the last lies within "
            f"{abs(worst['deviation']):.1%} of the line through the others ({worst['cell']})"
        )
    print(
        f"{clock / 1e9:g} GHz, {peak / 1e12:g} TFLOP/s; libtpu {aot.libtpu_version()}, "
        f"jax {jax.__version__}"
    )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 does not fit, 2 a mistake."""
    parser = argparse.ArgumentParser(
        "python -m eval.bench tpu",
        description=__doc__.split("\n")[0].partition(": ")[2],
        epilog="One such process at a time: libtpu holds a lock. Get libtpu by `make install-tpu`.",
    )
    parser.add_argument("--topology", default="v5e:2x2", help=f"generations: {', '.join(CHIPS)}")
    parser.add_argument("--cells", nargs="+", metavar="NAME", help="cells, or presets as rwkv/7")
    parser.add_argument("--chunk-sizes", type=int, nargs="+", metavar="N", help="tried in turn")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--time", type=int, default=4096, help="tokens a sequence")
    parser.add_argument(
        "--batch", type=int, default=8, help="sequences a chip; halved until it fits"
    )
    parser.add_argument("--no-scan", action="store_true", help="only the fast form")
    parser.add_argument("--top", type=int, default=5, help="dearest lines and instructions shown")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    parser.add_argument("--hlo", metavar="FOLDER", help="keep the optimised programs there")
    wanted = parser.parse_args(argv)
    start = time.perf_counter()

    def say(line):
        print(f"[{time.perf_counter() - start:4.0f} s] {line}", file=sys.stderr, flush=True)

    try:
        generation, _ = aot.parse_topology(wanted.topology)
        if generation not in CHIPS:
            raise UserError(f"no clock is known for {generation}; known: {', '.join(CHIPS)}")
        for name in ("width", "time", "batch"):
            if getattr(wanted, name) < 1:
                raise UserError(f"--{name}={getattr(wanted, name)}: give 1 or more")
        aot.prepare_environment(aot.find_libtpu())
        jax.config.update("jax_platforms", "cpu")  # JAX has read the environment already
        rows = run(wanted, say)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except aot.DoesNotFit as error:
        print(f"does not fit {wanted.topology}: {error}")
        return 1
    show(rows, wanted)
    if wanted.json:
        Path(wanted.json).write_text(
            json.dumps({"topology": wanted.topology, "rows": rows}, indent=2)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m train.compile`: compile the training step for absent TPUs.

    python -m train.compile --config=configs/prernk.py --topology=v5e:4x4 [--slices=2] [--json]
                            [--config.batch_size=256 --config.mesh.fsdp=4 ...]

Prints bytes per device, collectives by kind and compile time, or in one line why the step does not
fit. Exit status: 0 compiled, 1 does not fit, 2 invalid input.
"""

import json
import sys
from typing import Any

from jaxmodels import cli
from jaxmodels.errors import UserError
from train.config import load_config
from train.devices import aot


@cli.command(prints=True)
def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    parser = cli.parser(
        "train.compile",
        "Compile the training step for a TPU topology on a machine without one.",
        epilog="Any other argument must be --config.field=value.",
    )
    parser.add_argument("--config", required=True, help="experiment file, e.g. configs/prernk.py")
    parser.add_argument("--topology", required=True, help="e.g. v5e:4x4 or v5p:8x8x16 (chips)")
    parser.add_argument("--slices", type=int, default=1, help="slices of that shape")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    flags, overrides = cli.parse_with_overrides(parser, arguments)
    aot.parse_topology(flags.topology)
    if flags.slices < 1:
        raise UserError(f"--slices={flags.slices}: give 1 or more")
    aot.prepare_environment(aot.find_libtpu())
    config = load_config(flags.config, overrides)
    try:
        result = aot.compile_step(config, flags.topology, flags.slices)
    except aot.DoesNotFit as error:
        print(f"does not fit {flags.topology}: {error}")
        return 1
    print(json.dumps(result) if flags.json else describe(result))
    return 0


def describe(result: dict[str, Any]) -> str:
    """Format the result for a terminal."""
    per = "chip" if result["devices"] == result["chips"] else "device (two per chip)"
    mesh = ", ".join(f"{name} {size}" for name, size in result["mesh"].items()) or "one device"
    lines = [
        f"{result['model']} for {result['topology']}"
        + (f" x {result['slices']} slices" if result["slices"] > 1 else "")
        + f": {result['chips']} chips ({result['device_kind']}), mesh {mesh}",
        f"  batch {result['batch_size']} x {result['seq_len']} tokens, {result['dtype']}, "
        f"libtpu {result['libtpu']}, jax {result['jax']}",
        f"  bytes per {per}:",
    ]
    for name, size in result["bytes"].items():
        lines.append(f"    {name:<12} {_human(size):>10}")
    share = result["bytes"]["peak"] / result["hbm_bytes"]
    lines.append(f"    {'of HBM':<12} {share:>10.2%}   ({_human(result['hbm_bytes'])})")
    lines.append("  collectives (bytes: an operation in a loop counts once):")
    for kind, entry in sorted(result["collectives"].items()):
        loops = f"   {entry['in_loops']} in loops" if entry["in_loops"] else ""
        lines.append(f"    {kind:<20} {entry['count']:>4}   {_human(entry['bytes']):>10}{loops}")
    if not result["collectives"]:
        lines.append("    none")
    seconds = result["seconds"]
    lines.append(f"  lowered in {seconds['lower']:.1f} s, compiled in {seconds['compile']:.1f} s")
    return "\n".join(lines)


def _human(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main())

"""The training step compiled for a TPU that is not there.

    python -m train.compile --config=configs/prernk.py --topology=v5e:4x4 [--slices=2] [--json]
                            [--config.batch_size=256 --config.mesh.fsdp=4 ...]

Builds the very step that `python -m train` runs and has the TPU compiler, which PyPI's `libtpu`
brings to any Linux machine, compile it for the devices of a topology. Nothing runs and no array is
allocated. It prints bytes per device, collectives by kind and the time to compile, or says in one
line why the step does not fit. Exit status: 0 compiled, 1 does not fit, 2 a mistake in what was
asked for.

pmap takes no absent devices, so the step is lowered through `jax.jit(jax.shard_map(...))`, which
pmap itself is made of. libtpu is kept out of the default environment, because JAX would look for a
TPU at every start: `<venv>/tpu` (or `$LIBTPU_DIR`, or an ordinary installation) is searched only
here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags
from train.config import load_config

# name in a topology -> (number of axes, an example, HBM of a chip in GiB)
GENERATIONS = {
    "v4": (3, "v4:2x2x4", 32),
    "v5e": (2, "v5e:4x4", 16),
    "v5p": (3, "v5p:8x8x16", 95),
    "v6e": (2, "v6e:8x8", 32),
    "tpu7x": (3, "tpu7x:4x4x4", 192),
}
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "send",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}
_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "u64": 8, "token": 0}


class DoesNotFit(Exception):
    """The compiler ran out of the chip's memory; the message is one line."""


def find_libtpu() -> Path:
    """The compiler's shared library.

    Raises:
      UserError: it is nowhere; says how to get it.
    """
    folders = [Path(sys.prefix) / "tpu" / "libtpu"]
    if os.environ.get("LIBTPU_DIR"):
        folders.insert(0, Path(os.environ["LIBTPU_DIR"]) / "libtpu")
    spec = importlib.util.find_spec("libtpu")
    if spec is not None and spec.origin:
        folders.append(Path(spec.origin).parent)
    for folder in folders:
        if (folder / "libtpu.so").is_file():
            return folder / "libtpu.so"
    raise UserError(
        "the TPU compiler libtpu is not installed; get it (137 MB, no TPU needed) with: "
        f"{sys.executable} -m pip install --target {Path(sys.prefix) / 'tpu'} '{wanted_libtpu()}'"
    )


def prepare_environment(library: Path) -> None:
    """Sets what libtpu reads from the environment; call it before JAX first looks at a device."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_LIBRARY_PATH"] = str(library)
    # No metadata server to ask, no hardware to guard, nothing to log: it is only a compiler here.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-1"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    os.environ.setdefault("TPU_LOG_DIR", "disabled")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")


def parse_topology(topology: str) -> tuple[str, tuple[int, ...]]:
    """ "v5e:4x4" -> ("v5e", (4, 4)).

    Raises:
      UserError: another form, an unknown generation, or the wrong number of axes.
    """
    known = ", ".join(example for _, example, _ in GENERATIONS.values())
    match = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", topology)
    if match is None:
        raise UserError(
            f"--topology={topology}: expected a TPU generation and its chips along each axis, "
            f"e.g. {known}"
        )
    generation, sizes = match[1], tuple(int(size) for size in match[2].split("x"))
    if generation not in GENERATIONS:
        raise UserError(f"--topology={topology}: unknown generation {generation!r}; known: {known}")
    axes, example, _ = GENERATIONS[generation]
    if len(sizes) != axes or min(sizes) < 1:
        raise UserError(f"--topology={topology}: {generation} has {axes} axes, e.g. {example}")
    return generation, sizes


def topology_devices(topology: str, slices: int = 1) -> list[Any]:
    """The absent devices of a topology; call `prepare_environment` before."""
    import jax
    from jax.experimental import topologies

    generation, _ = parse_topology(topology)
    options: dict[str, Any] = {"num_slices": slices} if slices != 1 else {}
    if generation == "v4":  # one device a chip, not one a core
        options = {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
        options["num_slices"] = slices
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except jax.errors.JaxRuntimeError as error:
        reason = _one_line(str(error).partition(":")[2] or str(error))
        raise UserError(f"--topology={topology}: libtpu refuses it ({reason})") from error
    return list(description.devices)


def compile_step(config, topology: str, slices: int = 1) -> dict[str, Any]:
    """Compiles an experiment's training step for a topology.

    Args:
      config: a complete experiment config; `batch_size` is global and must divide over the devices.
      topology: e.g. "v5p:8x8x16".
      slices: how many such slices, joined by the data-centre network.

    Returns:
      A dict that `json` can write: devices, mesh, bytes (per device), collectives, seconds, libtpu.

    Raises:
      UserError: a topology or config that cannot be.
      DoesNotFit: the program needs more memory than a device has.
    """
    import jax

    from train.parallel import build_train_step

    generation, sizes = parse_topology(topology)
    devices = topology_devices(topology, slices)
    config = config.copy_and_resolve_references()
    config.parallel = "shard_map"
    # Where the vocabulary is to be the tokenizer's, its size is known without reading a corpus.
    if config.model_config.get("vocab_size") == 0:
        config.model_config.vocab_size = (
            256 if config.data.tokenizer == "byte" else config.data.max_tokens
        )
    placement = build_train_step(config, devices)
    start = time.perf_counter()
    labels = _label_shapes(config)
    lowered = placement.step.lower(
        placement.abstract_train_state(), placement.abstract_batch(labels)
    )
    lowering = time.perf_counter() - start
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        raise DoesNotFit(distil(str(error))) from error
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    try:
        program = compiled.as_text()
    except (
        jax.errors.JaxRuntimeError
    ) as error:  # the compiler's program in a form that JAX is too old for
        raise UserError(
            f"libtpu {libtpu_version()} and jax {jax.__version__} do not understand each other; "
            f"install {wanted_libtpu()}"
        ) from error
    return {
        "model": config.model,
        "topology": topology,
        "slices": slices,
        "chips": math.prod(sizes) * slices,
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
        "mesh": {name: size for name, size in placement.global_mesh.shape.items() if size > 1},
        "batch_size": config.batch_size,
        "seq_len": config.seq_len,
        "dtype": config.dtype,
        "bytes": {
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes,
            "aliased": memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
            "peak": memory.peak_memory_in_bytes,
        },
        "hbm_bytes": GENERATIONS[generation][2] * 2**30 * math.prod(sizes) * slices // len(devices),
        "collectives": count_collectives(program),
        "seconds": {"lower": round(lowering, 3), "compile": round(seconds, 3)},
        "libtpu": libtpu_version(),
        "jax": jax.__version__,
    }


def count_collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Collectives in optimised HLO text: kind -> {"count", "bytes", "in_loops"}.

    `count` operations, of them `in_loops` inside a loop's body, which run again at every pass;
    `bytes` is the size of their results, each operation once. Of an asynchronous pair only the
    start counts, and of a chain, which works at one operation behind others (even in a loop that
    runs meanwhile), its head; "send" is traffic between slices.
    """
    found: dict[str, dict[str, int]] = {}
    kinds = "|".join(COLLECTIVES)
    # name = type kind(operands...); an async start has the type (operands..., results..., ...).
    pattern = re.compile(rf"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ({kinds})(-start)?\(", re.M)
    computations = _computations(hlo)
    looped = _in_loops(computations)
    for name, body in computations.items():
        if "AsyncCollectiveStart" not in body:  # where it is, a chain begins
            body = re.sub(r"^.*\bchain_id=.*$", "", body, flags=re.M)
        for match in pattern.finditer(body):
            kind, result = match[2], match[1]
            if name.startswith("all-reduce-scatter"):  # how this compiler writes a reduce-scatter
                kind, result = "reduce-scatter", re.search(r"ROOT \S+ = (.*)", body)[1]
                result = result.partition(" tuple(")[0]
            sizes = [
                _BYTES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n)
                for dtype, shape in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", result)
            ]
            entry = found.setdefault(kind, {"count": 0, "bytes": 0, "in_loops": 0})
            entry["count"] += 1
            # A start's type repeats its operands: all of it would double the traffic.
            entry["bytes"] += max(sizes, default=0) if match[3] else sum(sizes)
            entry["in_loops"] += name in looped
    return found


def _computations(hlo: str) -> dict[str, str]:
    """Name -> text of each computation: a line at the margin that ends in "{", up to one "}"."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in hlo.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+).*\{$", line)
        if head:
            lines = found.setdefault(head[1], [])
        elif line.startswith(" "):
            lines.append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def _in_loops(computations: dict[str, str]) -> set[str]:
    """Computations that a while loop's body is or calls, however deep."""
    waiting = re.findall(r"\bbody=%?([\w.\-]+)", "\n".join(computations.values()))
    looped: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in looped and name in computations:
            looped.add(name)
            callees = r"\b(?:body|condition|calls|to_apply)=%?([\w.\-]+)"
            waiting += re.findall(callees, computations[name])
    return looped


def distil(message: str) -> str:
    """The compiler's out-of-memory message in one line, with what to do about it."""
    advice = (
        "lower --config.batch_size or --config.seq_len, raise --config.optimizer.accumulate or the "
        "model's remat chunk, or take more chips"
    )
    sizes = re.search(r"(\d[\d.]*\w?) ?\)?,? exceeds.*?\(?(\d[\d.]*[KMGT])\)?", message)
    if sizes is None:
        sizes = re.search(r"Used (\S+) of (\S+) hbm", message)
    if sizes is None:
        return f"{_one_line(message)}; {advice}"
    return f"the step needs {sizes[1]} of device memory, a device has {sizes[2]}; {advice}"


def describe(result: dict[str, Any]) -> str:
    """The result as text for a terminal."""
    per = "chip" if result["devices"] == result["chips"] else "device (two a chip)"
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


def _label_shapes(config):
    """Shapes of the label fields that the data pipeline adds to a batch."""
    import jax

    from jaxmodels.data import FORMATS

    d = config.data
    rows = (config.batch_size, config.seq_len)
    reader = FORMATS.get(d.format)
    shapes = {name: rows for name in (reader.labels if reader else ())}
    if d.labels == "relations":
        shapes["relation_labels"] = (*rows, d.label_slots, d.label_roles)
    return {name: jax.ShapeDtypeStruct(shape, "int32") for name, shape in shapes.items()}


def wanted_libtpu() -> str:
    """The release that the installed JAX asks for, in pip's words, e.g. "libtpu==0.0.42.*"."""
    for requirement in importlib.metadata.requires("jax") or ():
        name, _, marker = requirement.partition(";")
        if name.startswith("libtpu") and "extra" in marker:
            return name.strip()
    return "libtpu"


def libtpu_version() -> str:
    """Of the library that `prepare_environment` was given."""
    library = Path(os.environ["TPU_LIBRARY_PATH"])
    for info in library.parent.parent.glob("libtpu-*.dist-info"):
        return info.name.removeprefix("libtpu-").removesuffix(".dist-info")
    return "unknown"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _human(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    set_safe_flags()
    parser = argparse.ArgumentParser(
        prog="python -m train.compile",
        description="Compile the training step for a TPU topology on a machine without one.",
        epilog="Any other argument must be --config.field=value.",
    )
    parser.add_argument("--config", required=True, help="experiment file, e.g. configs/prernk.py")
    parser.add_argument("--topology", required=True, help="e.g. v5e:4x4 or v5p:8x8x16 (chips)")
    parser.add_argument("--slices", type=int, default=1, help="slices of that shape")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    flags, overrides = parser.parse_known_args(arguments)
    try:
        parse_topology(flags.topology)
        if flags.slices < 1:
            raise UserError(f"--slices={flags.slices}: give 1 or more")
        prepare_environment(find_libtpu())
        result = compile_step(load_config(flags.config, overrides), flags.topology, flags.slices)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DoesNotFit as error:
        print(f"does not fit {flags.topology}: {error}")
        return 1
    print(json.dumps(result) if flags.json else describe(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Ahead-of-time compilation of the training step for absent TPUs (`python -m train.compile`).

PyPI's `libtpu` contains the TPU compiler for any Linux machine. It compiles the same step that
`python -m train` runs, for the devices of a topology; nothing runs and no array is allocated.

pmap rejects absent devices, so the step is lowered through `jax.jit(jax.shard_map(...))`, which
implements pmap. libtpu is not in the default environment, because JAX would then probe for a TPU at
every start: only this module searches `$LIBTPU_DIR`, `<venv>/tpu` and an ordinary installation.
"""

import importlib.metadata
import importlib.util
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from jaxmodels.data import FORMATS
from jaxmodels.errors import UserError
from train.devices.placement import Placement
from train.tasks.fields import CHAT_FORMAT

# name in a topology -> (number of axes, an example, HBM of a chip in GiB)
GENERATIONS = {
    "v4": (3, "v4:2x2x4", 32),
    "v5e": (2, "v5e:4x4", 16),
    "v5p": (3, "v5p:8x8x16", 95),
    "v6e": (2, "v6e:8x8", 32),
    "tpu7x": (3, "tpu7x:4x4x4", 192),
}
COLLECTIVES = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast|send"
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}
_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "u64": 8, "token": 0}


class DoesNotFit(Exception):
    """Out of device memory at compile time; the message is one line."""


def find_libtpu() -> Path:
    """Return the path of libtpu.so; raise UserError with install instructions if absent."""
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
    """Set the environment of libtpu; call this before JAX initializes its backends."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_LIBRARY_PATH"] = str(library)
    # Compiler only: no metadata server, no hardware lock, no logs.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-1"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    os.environ.setdefault("TPU_LOG_DIR", "disabled")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")


def parse_topology(topology: str) -> tuple[str, tuple[int, ...]]:
    """Parse "v5e:4x4" to ("v5e", (4, 4)); raise UserError for any other form."""
    examples = ", ".join(example for _, example, _ in GENERATIONS.values())
    match = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", topology)
    if match is None:
        raise UserError(
            f"--topology={topology}: expected a TPU generation and its chips along each axis, "
            f"e.g. {examples}"
        )
    generation, sizes = match[1], tuple(int(size) for size in match[2].split("x"))
    if generation not in GENERATIONS:
        raise UserError(
            f"--topology={topology}: unknown generation {generation!r}; choose from: {examples}"
        )
    axes, example, _ = GENERATIONS[generation]
    if len(sizes) != axes or min(sizes) < 1:
        raise UserError(f"--topology={topology}: {generation} has {axes} axes, e.g. {example}")
    return generation, sizes


def topology_devices(topology: str, slices: int = 1) -> list[Any]:
    """Return the devices of a topology; call `prepare_environment` first."""
    jax.config.update("jax_enable_compilation_cache", False)  # no device to load a program on
    generation, _ = parse_topology(topology)
    options: dict[str, Any] = {"num_slices": slices} if slices != 1 else {}
    if generation == "v4":  # one device per chip, not per core
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
    """Compile an experiment's training step for a topology.

    Args:
      config: complete config; `batch_size` is global and must divide over the devices.
      topology: e.g. "v5p:8x8x16".
      slices: number of such slices, joined by the data-centre network.

    Returns:
      A JSON-serializable dict: devices, mesh, bytes (per device), collectives, seconds, libtpu.

    Raises:
      UserError: invalid topology or config.
      DoesNotFit: the program needs more memory than a device has.
    """
    generation, sizes = parse_topology(topology)
    devices = topology_devices(topology, slices)
    config = config.copy_and_resolve_references()
    config.parallel = "shard_map"
    # The tokenizer's vocabulary size follows from the config, without reading a corpus.
    if config.model_config.get("vocab_size") == 0:
        config.model_config.vocab_size = (
            256 if config.data.tokenizer == "byte" else config.data.max_tokens
        )
    placement = Placement(config, devices)
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
    except jax.errors.JaxRuntimeError as error:  # a program format newer than this JAX
        raise UserError(
            f"libtpu {libtpu_version()} and jax {jax.__version__} are incompatible; "
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
    """Count the collectives in optimized HLO text: kind -> {"count", "bytes", "in_loops"}.

    `count` operations, `in_loops` of them in loop bodies, executed at every iteration; `bytes` is
    the size of the results, each operation once. An asynchronous pair counts at its start, a chain
    (one operation spread behind others) at its head; "send" is traffic between slices.
    """
    totals: dict[str, dict[str, int]] = {}
    # name = type kind(operands...); an async start has the type (operands..., results..., ...).
    pattern = re.compile(rf"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ({COLLECTIVES})(-start)?\(", re.M)
    computations = computations_of(hlo)
    looped = _in_loops(computations)
    for name, body in computations.items():
        if "AsyncCollectiveStart" not in body:  # not the head of a chain
            body = re.sub(r"^.*\bchain_id=.*$", "", body, flags=re.M)
        for match in pattern.finditer(body):
            kind, result = match[2], match[1]
            if name.startswith("all-reduce-scatter"):  # libtpu's reduce-scatter
                kind, result = "reduce-scatter", re.search(r"ROOT \S+ = (.*)", body)[1]
                result = result.partition(" tuple(")[0]
            sizes = [
                _BYTES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n)
                for dtype, shape in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", result)
            ]
            entry = totals.setdefault(kind, {"count": 0, "bytes": 0, "in_loops": 0})
            entry["count"] += 1
            # The type of a start repeats its operands, which would double the traffic.
            entry["bytes"] += max(sizes, default=0) if match[3] else sum(sizes)
            entry["in_loops"] += name in looped
    return totals


def computations_of(hlo: str) -> dict[str, str]:
    """Return the text of each computation of a program by name."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in hlo.splitlines():
        # Its head is at the margin and ends in "{".
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+).*\{$", line)
        if head:
            lines = bodies.setdefault(head[1], [])
        elif line.startswith(" "):
            lines.append(line)
    return {name: "\n".join(lines) for name, lines in bodies.items()}


def _in_loops(computations: dict[str, str]) -> set[str]:
    """Return the computations that while-loop bodies are or call, transitively."""
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
    """Condense the compiler's out-of-memory message to one line, with remedies."""
    advice = (
        "lower --config.batch_size or --config.seq_len, raise --config.optimizer.accumulate or the "
        "model's remat chunk, or use more chips"
    )
    sizes = re.search(r"(\d[\d.]*\w?) ?\)?,? exceeds.*?\(?(\d[\d.]*[KMGT])\)?", message)
    if sizes is None:
        sizes = re.search(r"Used (\S+) of (\S+) hbm", message)
    if sizes is None:
        sizes = re.search(r"\(size=(\d+)\) would exceed memory \(size=(\d+)\)", message)
        if sizes is None:
            return f"{_one_line(message)}; {advice}"
        sizes = [None, *(f"{int(size) / 2**30:.2f}G" for size in sizes.groups())]
    return f"the step needs {sizes[1]} of device memory, a device has {sizes[2]}; {advice}"


def _label_shapes(config):
    """Return the shapes of the label fields that the data pipeline adds to a batch."""
    d = config.data
    rows = (config.batch_size, config.seq_len)
    reader = FORMATS.get(d.format)
    shapes = {name: rows for name in (reader.labels if reader else ())}
    if d.format == CHAT_FORMAT:
        shapes |= dict.fromkeys(("intent", "answerable"), rows[:1])
    if d.labels == "relations":
        shapes["relation_labels"] = (*rows, d.label_slots, d.label_roles)
    return {name: jax.ShapeDtypeStruct(shape, "int32") for name, shape in shapes.items()}


def wanted_libtpu() -> str:
    """Return the release that the installed JAX requires, e.g. "libtpu==0.0.42.*"."""
    for requirement in importlib.metadata.requires("jax") or ():
        name, _, marker = requirement.partition(";")
        if name.startswith("libtpu") and "extra" in marker:
            return name.strip()
    return "libtpu"


def libtpu_version() -> str:
    """Return the version of the library set by `prepare_environment`."""
    library = Path(os.environ["TPU_LIBRARY_PATH"])
    for info in library.parent.parent.glob("libtpu-*.dist-info"):
        return info.name.removeprefix("libtpu-").removesuffix(".dist-info")
    return "unknown"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]

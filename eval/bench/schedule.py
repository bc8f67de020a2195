"""Cost of custom kernels on a TPU, from the compiler's schedule.

The compiler does not estimate cycles for custom kernels, but can dump the instruction bundle of
each cycle, with the loops around it. The cost of a kernel is

    max(bundles x iterations of their loops, bytes in and out / HBM bandwidth)

as copies overlap with computation. Conditional code (`pl.when`) always counts; a loop without a
constant limit counts once and is reported.
"""

import dataclasses
import math
import os
import re
import shutil
import tempfile
from pathlib import Path

FLAGS = "--xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles|final_hlo"
BITS = {"pred": 8, "bf16": 16, "f16": 16}  # other names contain their number of bits
TILE = (8, 128)
PROGRAM = "TLP"  # the top-level program, which calls the others


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Schedule of a kernel.

    Attributes:
      bundles: cycles without waiting for memory.
      busy: unit -> fraction of its slots used, over the listing without repeating loops.
      unknown_loops: number of loops that were counted once.
    """

    bundles: int
    busy: dict[str, float]
    unknown_loops: int


class Kernels:
    """Reader of the kernel schedules that libtpu dumps.

    Must be created before libtpu is loaded, which reads its flags once.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="schedules"))
        flags = os.environ.get("LIBTPU_INIT_ARGS", "")
        os.environ["LIBTPU_INIT_ARGS"] = f"{flags} --xla_jf_dump_to={self.folder} {FLAGS}".strip()

    def read(self) -> dict[str, Schedule]:
        """Return instruction -> schedule for the last compilation, and delete the dump."""
        schedules = {}
        for path in self.folder.glob("*-final_bundles.txt"):
            head = re.fullmatch(r"\d+-(.+)-\d+-final_bundles\.txt", path.name)
            if head is None or head[1] == PROGRAM or "schedule-analysis" in path.name:
                continue
            text = path.read_text(errors="replace")
            bundles, unknown = count(text)
            units = list(self.folder.glob(f"*-{head[1]}-*-final_hlo-static-per-bundle-*.txt"))
            busy = _busy(units[0].read_text()) if units else {}
            schedules[head[1]] = Schedule(bundles, busy, unknown)
        for path in self.folder.iterdir():
            path.unlink()
        return schedules

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def twins(program: str, schedules: dict[str, Schedule]) -> dict[str, Schedule]:
    """Return instruction -> schedule for kernels of a program that the compiler has not scheduled.

    It schedules equal kernels once, and dumps them by the name of one. These are of one name, but
    for what follows its first point, and of one shape.
    """
    calls = re.findall(r"%?([\w.\-]+) = (.+?) custom-call\(", program)
    kinds = {name: (name.partition(".")[0], shape) for name, shape in calls}
    known = {kinds[name]: schedule for name, schedule in schedules.items() if name in kinds}
    return {
        name: known[kind] for name, kind in kinds.items() if name not in schedules and kind in known
    }


@dataclasses.dataclass
class _Loop:
    bundles: int = 0  # including inner loops, times their iterations
    iterations: int | None = None


def count(listing: str) -> tuple[int, int]:
    """Return (bundles times loop iterations, loops of unknown length) of a bundle listing.

    A line is `ADDRESS LABEL: > { ... }`: the label LB starts a loop, each > is an enclosing loop.
    A loop counter starts at 0, grows by a constant, and is compared with its limit.
    """
    lines = re.findall(
        r"^\s*(?:0x[0-9a-f]+|0)\s+([A-Z]{2})?\s*:\s*(>*)\s*(\{.*)", listing, re.MULTILINE
    )
    depths = _depths(lines)
    stack, unknown = [_Loop()], 0

    def close():
        nonlocal unknown
        loop = stack.pop()
        unknown += loop.iterations is None
        stack[-1].bundles += loop.bundles * (1 if loop.iterations is None else loop.iterations)

    for depth, (label, _, text) in zip(depths, lines, strict=True):
        while len(stack) - 1 > depth or (label == "LB" and len(stack) - 1 == depth):
            close()
        while len(stack) - 1 < depth:
            stack.append(_Loop())
        stack[-1].bundles += 1
        test = re.search(r"scmp\.ge\.s32\.totalorder (%s\w+), (\d+) /\* loop exit test", text)
        if test:
            step = re.search(rf"{re.escape(test[1])} = sadd\.s32 (\d+),", listing)
            stack[-1].iterations = math.ceil(int(test[2]) / (int(step[1]) if step else 1))
    while len(stack) > 1:
        close()
    return stack[0].bundles, unknown


def _depths(lines) -> list[int]:
    """Return the loop depth of each line.

    Empty bundles have no marks, and a back jump may have those of the outer loop; both belong to
    the loop if it continues after them without a label.
    """
    depths: list[int] = []
    for label, marks, _ in lines:
        inside = len(marks) - (label == "LB")
        line = len(depths) - 1
        while line >= 0 and depths[line] < inside:
            depths[line] = inside
            line -= 1
        depths.append(len(marks))
    return depths


def _busy(text: str) -> dict[str, float]:
    """Return unit -> fraction of its slots used, from a table of used slots per bundle."""
    lines = text.splitlines()
    units, slots = lines[1].split(", "), [int(n) for n in lines[2].split()]
    rows = [[int(n) for n in line.split()] for line in lines[4:] if line.strip()]
    used = [sum(column) for column in zip(*rows, strict=True)]
    return {unit: n / (slot * len(rows)) for unit, n, slot in zip(units, used, slots, strict=True)}


def size_of(shapes: str) -> int:
    """Return the bytes in HBM of the arrays in an HLO shape, padded to tiles."""
    total = 0
    for kind, dims, layout in re.findall(r"([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?", shapes):
        if "S(1)" in layout:  # VMEM
            continue
        sizes = [int(n) for n in dims.split(",") if n]
        order = [int(n) for n in layout.partition(":")[0].split(",") if n]
        for axis, tile in zip(order, reversed(TILE), strict=False):
            sizes[axis] = math.ceil(sizes[axis] / tile) * tile
        bits = BITS.get(kind) or int(re.sub(r"\D", "", kind) or 32)
        total += math.prod(sizes) * bits // 8
    return total

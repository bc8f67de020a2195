"""What kernels written by hand would cost on a TPU: the schedule that its compiler made of them.

The compiler estimates no cycles for them, but writes out on request the instructions that it has
packed for each cycle ("bundles"), with the loops around them. A kernel then costs

    max(bundles, each times the turns of its loops;  bytes in and out / what the large memory gives)

as copies run beside the work. What may be left out (`pl.when`) counts as if it were not, and a loop
whose end is no constant counts once and is named.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
import tempfile
from pathlib import Path

FLAGS = "--xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles|final_hlo"
BITS = {"pred": 8, "bf16": 16, "f16": 16}  # others have theirs in the name
TILE = (8, 128)
PROGRAM = "TLP"  # what calls all the others


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Of a kernel.

    Attributes:
      bundles: cycles, if nothing waits for memory.
      busy: unit -> share of the bundles' slots that it fills, of the listing, loops not multiplied.
      unknown_loops: loops that were counted once.
    """

    bundles: int
    busy: dict[str, float]
    unknown_loops: int


class Kernels:
    """Schedules of the kernels of one compilation after the other.

    To be made before libtpu is loaded, which reads its flags once.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="schedules"))
        flags = os.environ.get("LIBTPU_INIT_ARGS", "")
        os.environ["LIBTPU_INIT_ARGS"] = f"{flags} --xla_jf_dump_to={self.folder} {FLAGS}".strip()

    def read(self) -> dict[str, Schedule]:
        """Name of an instruction, kernel or not -> its schedule; forgets what it has read."""
        found = {}
        for path in self.folder.glob("*-final_bundles.txt"):
            head = re.fullmatch(r"\d+-(.+)-\d+-final_bundles\.txt", path.name)
            if head is None or head[1] == PROGRAM or "schedule-analysis" in path.name:
                continue
            text = path.read_text(errors="replace")
            bundles, unknown = count(text)
            units = list(self.folder.glob(f"*-{head[1]}-*-final_hlo-static-per-bundle-*.txt"))
            busy = _busy(units[0].read_text()) if units else {}
            found[head[1]] = Schedule(bundles, busy, unknown)
        for path in self.folder.iterdir():
            path.unlink()
        return found

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclasses.dataclass
class _Loop:
    bundles: int = 0  # those of loops inside included, as often as they run
    turns: int | None = None


def count(listing: str) -> tuple[int, int]:
    """(bundles with loops multiplied, loops of unknown length) of a listing of final bundles.

    A line is `ADDRESS LABEL: > { ... }`: the label LB starts a loop, each > is a loop around it.
    The loop's counter is compared with its end, starts at 0, and grows by a constant.
    """
    lines = re.findall(
        r"^\s*(?:0x[0-9a-f]+|0)\s+([A-Z]{2})?\s*:\s*(>*)\s*(\{.*)", listing, re.MULTILINE
    )
    depths = _depths(lines)
    stack, unknown = [_Loop()], 0

    def close():
        nonlocal unknown
        loop = stack.pop()
        unknown += loop.turns is None
        stack[-1].bundles += loop.bundles * (1 if loop.turns is None else loop.turns)

    for depth, (label, _, text) in zip(depths, lines, strict=True):
        while len(stack) - 1 > depth or (label == "LB" and len(stack) - 1 == depth):
            close()
        while len(stack) - 1 < depth:
            stack.append(_Loop())
        stack[-1].bundles += 1
        test = re.search(r"scmp\.ge\.s32\.totalorder (%s\w+), (\d+) /\* loop exit test", text)
        if test:
            step = re.search(rf"{re.escape(test[1])} = sadd\.s32 (\d+),", listing)
            stack[-1].turns = math.ceil(int(test[2]) / (int(step[1]) if step else 1))
    while len(stack) > 1:
        close()
    return stack[0].bundles, unknown


def _depths(lines) -> list[int]:
    """How many loops each line stands in.

    An empty bundle carries no marks, and one that jumps back may carry those of the loop outside:
    what goes on after it without a label has not been left.
    """
    depths: list[int] = []
    for label, marks, _ in lines:
        inside = len(marks) - (label == "LB")
        place = len(depths) - 1
        while place >= 0 and depths[place] < inside:
            depths[place] = inside
            place -= 1
        depths.append(len(marks))
    return depths


def _busy(text: str) -> dict[str, float]:
    """Unit -> share of its slots, from a table of slots used by bundle."""
    lines = text.splitlines()
    units, slots = lines[1].split(", "), [int(n) for n in lines[2].split()]
    rows = [[int(n) for n in line.split()] for line in lines[4:] if line.strip()]
    used = [sum(column) for column in zip(*rows, strict=True)]
    return {unit: n / (slot * len(rows)) for unit, n, slot in zip(units, used, slots, strict=True)}


def size_of(shapes: str) -> int:
    """Bytes in memory of the arrays in a shape of HLO, tiles filled up; those in VMEM left out."""
    total = 0
    for kind, dims, layout in re.findall(r"([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?", shapes):
        if "S(1)" in layout:
            continue
        sizes = [int(n) for n in dims.split(",") if n]
        order = [int(n) for n in layout.partition(":")[0].split(",") if n]
        for axis, tile in zip(order, reversed(TILE), strict=False):
            sizes[axis] = math.ceil(sizes[axis] / tile) * tile
        bits = BITS.get(kind) or int(re.sub(r"\D", "", kind) or 32)
        total += math.prod(sizes) * bits // 8
    return total

"""Cycles of a program as estimated by the TPU compiler, summed over its optimized HLO text.

libtpu writes `"estimated_cycles":"N"` into the backend_config of the instructions that it has
costed, for their operands in HBM or VMEM. The sum follows the schedule:

* an instruction with an estimate counts it, without the instructions inside a fusion;
* a `while` counts its body times its trip count (limit - start) / increment, all constants;
* a `conditional` counts its most expensive branch; a `call` or asynchronous start what it calls.

Asynchronous copies have no estimate and are assumed to overlap. Custom kernels have none either:
they cost what `eval/bench/schedule.py` finds, or are listed as not counted.
"""

import dataclasses
import math
import re

from train.devices.aot import computations_of

UNKNOWN = 2**62  # newer generations write 2^63 - 1 where they have no estimate
# Instructions without cost, or asynchronous ones.
FREE = set("parameter constant tuple get-tuple-element bitcast iota after-all partition-id".split())
FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "Sharding")
MOVES = set(
    "parameter constant tuple get-tuple-element bitcast iota copy transpose reshape broadcast "
    "slice concatenate pad reverse gather dynamic-slice dynamic-update-slice convert fusion".split()
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO; `attributes` is the text after the operands."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    literal: str
    root: bool

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate, or None."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(match[1]) if match and int(match[1]) < UNKNOWN else None

    @property
    def op_name(self) -> str:
        """Name of the operation in the traced program."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def frame(self) -> int | None:
        """Id of the stack frame, or None."""
        match = re.search(r"stack_frame_id=(\d+)", self.attributes)
        return int(match[1]) if match else None

    def called(self, *keys: str) -> list[str]:
        """Return the names of the computations in these attributes."""
        names = []
        for key in keys:
            match = re.search(rf"\b{key}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
            names += re.findall(r"[\w.\-]+", match[1]) if match else []
        return names


@dataclasses.dataclass(frozen=True)
class Cost:
    """An instruction that runs `times` times and takes `cycles` in total.

    kind: see `Program.kind_of`, or "kernel"; source: "file.py:line function" of the operation or
    of the operation whose gradient it is.
    """

    instruction: Instruction
    times: int
    cycles: int
    kind: str
    source: str


@dataclasses.dataclass(frozen=True)
class Profile:
    """Cost of a program.

    Attributes:
      cycles: total.
      costs: every instruction with an estimate, most expensive first.
      without_estimate: opcode (or target of a custom call) -> number of uncounted executions.
      unknown_loops: loops without a constant trip count; their bodies count once.
    """

    cycles: int
    costs: tuple[Cost, ...]
    without_estimate: dict[str, int]
    unknown_loops: tuple[str, ...]

    def by(self, field: str) -> dict[str, int]:
        """Return cycles by "kind" or "source", most expensive first."""
        sums: dict[str, int] = {}
        for cost in self.costs:
            key = getattr(cost, field)
            sums[key] = sums.get(key, 0) + cost.cycles
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


class Program:
    """Parsed HLO text: computations by name, each a dict of instructions by name."""

    def __init__(self, text: str):
        self.computations = {
            name: {i.name: i for i in map(_parse, body.splitlines()) if i is not None}
            for name, body in computations_of(text).items()
        }
        self.entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.M)[1]
        self.sources = _sources(text)
        # body or condition of a loop -> (computation of the loop, its initial values, its body)
        self.loops = {
            region: (name, instruction.operands[0], instruction.called("body")[0])
            for name, body in self.computations.items()
            for instruction in body.values()
            if instruction.opcode == "while"
            for region in instruction.called("body", "condition")
        }

    def root(self, computation: str) -> Instruction:
        """Return the root instruction of a computation."""
        return next(i for i in self.computations[computation].values() if i.root)

    def constant(self, computation: str, name: str, index: int | None = None) -> int | None:
        """Return the constant integer of a value, traced through copies, tuples and loops, or None.

        index: element of a tuple.
        """
        instruction = self._source(computation, name)
        opcode, operands = instruction.opcode, instruction.operands
        if opcode == "constant" and re.fullmatch(r"-?\d+", instruction.literal):
            return int(instruction.literal)
        if opcode == "get-tuple-element":
            return self.constant(computation, operands[0], _index(instruction))
        if opcode == "tuple" and index is not None:
            return self.constant(computation, operands[index])
        if opcode == "parameter" and computation in self.loops and index is not None:
            outside, initial, body = self.loops[computation]
            carried = self._source(body, self.root(body).operands[index])
            if carried.opcode == "get-tuple-element" and _index(carried) == index:
                return self.constant(outside, initial, index)
        return None

    def trip_count(self, loop: Instruction) -> int | None:
        """Return the number of iterations of a loop; None if it is not constant."""
        condition, body = loop.called("condition")[0], loop.called("body")[0]
        test = self.root(condition)
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            return None
        counter = self._source(condition, test.operands[0])
        if counter.opcode != "get-tuple-element":
            return None
        outside, initial, _ = self.loops[condition]
        limit = self.constant(condition, test.operands[1])
        start = self.constant(outside, initial, _index(counter))
        step = self._source(body, self.root(body).operands[_index(counter)])
        if step.opcode != "add" or limit is None or start is None:
            return None
        steps = [n for n in (self.constant(body, name) for name in step.operands) if n]
        return max(0, math.ceil((limit - start) / steps[0])) if steps else None

    def _source(self, computation: str, name: str) -> Instruction:
        """Return the instruction that a value was copied from."""
        instruction = self.computations[computation][name]
        while instruction.opcode in ("copy", "bitcast", "convert"):
            instruction = self.computations[computation][instruction.operands[0]]
        return instruction

    def kind_of(self, instruction: Instruction) -> str:
        """Return "product" (convolution or dot), "movement", "reduction" or "elementwise"."""
        opcodes = self._opcodes(instruction)
        if opcodes & {"convolution", "dot"}:
            return "product"
        if opcodes <= MOVES:
            return "movement"
        return "reduction" if opcodes & {"reduce", "reduce-window"} else "elementwise"

    def _opcodes(self, instruction: Instruction) -> set[str]:
        opcodes = {instruction.opcode}
        if instruction.opcode == "fusion":
            for name in instruction.called("calls"):
                for inner in self.computations[name].values():
                    opcodes |= self._opcodes(inner)
        return opcodes


def profile(text: str, cost_of_kernel=None) -> Profile:
    """Sum the estimates in the optimized HLO of a program.

    Args:
      text: `compiled.as_text()`.
      cost_of_kernel: (instruction, shapes of its operands) -> cycles of a custom kernel, or None.
    """
    program = Program(text)
    uncounted: dict[str, int] = {}
    unknown: list[str] = []

    def walk(computation: str, times: int) -> list[Cost]:
        costs: list[Cost] = []
        for instruction in program.computations[computation].values():
            opcode, cycles = instruction.opcode, instruction.cycles
            kernel = opcode == "custom-call" and '"tpu_custom_call"' in instruction.attributes
            if kernel and cost_of_kernel is not None:
                names = dict.fromkeys(instruction.operands)  # repeated operands are one array
                operands = [program.computations[computation][name] for name in names]
                cycles = cost_of_kernel(instruction, [x.shape for x in operands])
            if cycles is not None:
                kind = "kernel" if kernel else program.kind_of(instruction)
                source = program.sources.get(instruction.frame, "?")
                costs.append(Cost(instruction, times, times * cycles, kind, source))
            elif opcode == "while":
                passes = program.trip_count(instruction)
                if passes is None:
                    unknown.append(instruction.name)
                for region in instruction.called("condition", "body"):
                    costs += walk(region, times * (1 if passes is None else passes))
            elif opcode == "conditional":
                branches = instruction.called(
                    "branch_computations", "true_computation", "false_computation"
                )
                costs += max((walk(name, times) for name in branches), key=_total)
            elif opcode == "call" or opcode.endswith("-start"):
                for name in instruction.called("to_apply", "calls"):
                    costs += walk(name, times)
            elif opcode == "custom-call":
                target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
                if target and target[1] not in FREE_CALLS:
                    uncounted[target[1]] = uncounted.get(target[1], 0) + times
            elif (
                opcode not in FREE and not opcode.endswith("-done") and _size(instruction.shape) > 1
            ):
                uncounted[opcode] = uncounted.get(opcode, 0) + times
        return costs

    costs = sorted(walk(program.entry, 1), key=lambda cost: -cost.cycles)
    return Profile(_total(costs), tuple(costs), uncounted, tuple(unknown))


def _total(costs: list[Cost]) -> int:
    return sum(cost.cycles for cost in costs)


def _size(shape: str) -> int:
    sizes = re.findall(r"\[([\d,]*)\]", shape)
    return sum(math.prod(int(n) for n in size.split(",") if n) for size in sizes)


def _index(instruction: Instruction) -> int:
    return int(re.search(r"\bindex=(\d+)", instruction.attributes)[1])


def _parse(line: str) -> Instruction | None:
    """Parse `[ROOT] %name = shape opcode(operands), attributes`; tuple shapes are parenthesized."""
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 1
    inside = rest[:end]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(head[2], shape, opcode, operands, rest[end:], inside, bool(head[1]))


def _sources(text: str) -> dict[int, str]:
    """Return stack frame -> "file.py:line function" from the tables in the program's header."""

    def table(title: str) -> dict[int, str]:
        match = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.M)
        rows = re.findall(r"^(\d+) (.*)$", match[1], re.M) if match else []
        return {int(number): row for number, row in rows}

    def number(row: str, field: str) -> int:
        return int(re.search(rf"{field}=(\d+)", row)[1])

    files, functions, locations = map(table, ("FileNames", "FunctionNames", "FileLocations"))
    sources = {}
    for frame, row in table("StackFrames").items():
        location = locations[number(row, "file_location_id")]
        file = files[number(location, "file_name_id")].strip('"').rsplit("/", 1)[-1]
        function = functions[number(location, "function_name_id")].strip('"').rsplit(".", 1)[-1]
        sources[frame] = f"{file}:{number(location, ' line')} {function}"
    return sources


def _closing(text: str) -> int:
    """Return the position of the parenthesis that closes the first one."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return position
    return len(text)

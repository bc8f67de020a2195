"""Interpreter of the pickles of `torch.save`, protocols 1 to 5, that runs no code of the file.

Python's own unpickler imports and calls what a file names. This one knows a handful of names; any
other class or call becomes a `Foreign`, which remembers its name and its state and does nothing.
"""

import pickletools
from typing import Any, NamedTuple

from jaxmodels.errors import UserError

# Opcodes that push their argument, or this value.
ARGUMENTS = set(
    "INT LONG LONG1 LONG4 BININT BININT1 BININT2 BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}  # of tuples made from the top of the stack
# Opcodes that put one item, or all items after the mark, into the object below.
FILLING = {"APPEND": 1, "APPENDS": None, "SETITEM": 2, "SETITEMS": None, "ADDITEMS": None}
IGNORED = {"PROTO", "FRAME"}
DICTS = {("collections", "OrderedDict"), ("builtins", "dict"), ("__builtin__", "dict")}
SETS = {(module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset")}
REBUILT = ("_rebuild_tensor", "_rebuild_tensor_v2")
WRAPPED = ("_rebuild_parameter", "_rebuild_parameter_with_state")


class Storage(NamedTuple):
    """A flat buffer: the name of its type, and its key in the archive."""

    kind: str
    key: str


class View(NamedTuple):
    """A tensor as a strided view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Name(NamedTuple):
    """A class or function that the file names."""

    module: str
    name: str


class Foreign:
    """An object of another class, or the result of a call, that is not made.

    Attributes:
      origin: name of the class or function.
      state: attributes by name, if the file has them.
    """

    def __init__(self, origin: str):
        self.origin = origin
        self.state: dict = {}


def load(data: bytes) -> Any:
    """Return the value of a pickle, made of dicts, lists, tuples, numbers, text, `View`, `Foreign`.

    Sets are lists. Keys that are neither text nor numbers are `Foreign`: the hash of a tuple made
    of tuples may take forever.

    Raises:
      UserError: an opcode that torch does not write, named.
      Exception: of any kind, if the pickle is damaged.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(data):
        machine.run(opcode.name, argument)
    return machine.stack.pop()  # genops ends at STOP


class _Machine:
    """The stack, marks and memo of a pickle."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}

    def run(self, opcode: str, argument) -> None:
        push = self.stack.append
        if opcode in ARGUMENTS:
            push(argument)
        elif opcode in CONSTANTS:
            push(CONSTANTS[opcode])
        elif opcode in EMPTY:
            push(EMPTY[opcode]())
        elif opcode in SIZES:
            push(tuple(self.take(SIZES[opcode])))
        elif opcode in FILLING:
            items = self.take(FILLING[opcode])
            _fill(self.stack[-1], items, by_key="SETITEM" in opcode)
        elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            push(self.memo[argument])
        elif opcode not in IGNORED:
            self.run_rare(opcode, argument)

    def run_rare(self, opcode: str, argument) -> None:
        stack = self.stack
        match opcode:
            case "MARK":
                self.marks.append(len(stack))
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "TUPLE":
                stack.append(tuple(self.take()))
            case "LIST" | "FROZENSET":
                stack.append(self.take())
            case "DICT":
                items, made = self.take(), {}
                _fill(made, items, by_key=True)
                stack.append(made)
            case "GLOBAL":
                stack.append(Name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(Name(*_texts(self.take(2))))
            case "REDUCE" | "NEWOBJ":
                stack.append(_called(*self.take(2)))
            case "NEWOBJ_EX":
                function, arguments, _ = self.take(3)
                stack.append(_called(function, arguments))
            case "BUILD":
                (state,) = self.take(1)
                if isinstance(stack[-1], Foreign):
                    stack[-1].state = _attributes(state)
            case "BINPERSID":
                (reference,) = self.take(1)
                stack.append(_storage(reference))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.take()
            case "DUP":
                stack.append(stack[-1])
            case "STOP":
                pass
            case _:
                raise UserError(f"damaged, or not of torch.save: data.pkl has the opcode {opcode}")

    def take(self, count: int | None = None) -> list:
        """Remove and return the topmost items; None means all after the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("the stack is empty")
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _fill(container, items: list, by_key: bool) -> None:
    if by_key and isinstance(container, dict):
        container.update(_keyed(zip(items[::2], items[1::2], strict=True)))
    elif not by_key and isinstance(container, list):
        container.extend(items)
    elif not isinstance(container, Foreign):
        raise TypeError(f"items are put into a {type(container).__name__}")


def _keyed(pairs) -> dict:
    return {
        k if isinstance(k, str | int | float) else Foreign(type(k).__name__): v for k, v in pairs
    }


def _texts(items: list) -> list[str]:
    if not all(isinstance(item, str) for item in items):
        raise TypeError("a name that is no text")
    return items


def _called(function, arguments):
    """Return what a call of the function would make, without calling it."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise TypeError("a call of what is no function")
    module, name = function
    if function in DICTS:
        return _keyed(arguments[0]) if arguments else {}
    if function in SETS:
        return list(arguments[0]) if arguments else []
    if module == "torch._utils" and name in REBUILT:
        return View(*arguments[:4])
    if module == "torch._utils" and name in WRAPPED:
        return arguments[0]
    if function == ("torch._tensor", "_rebuild_from_type_v2"):
        return _called(arguments[0], arguments[2])  # a subclass of Tensor, or one with attributes
    if function == ("copyreg", "_reconstructor") and isinstance(arguments[0], Name):
        return Foreign(".".join(arguments[0]))
    return Foreign(f"{module}.{name}")


def _attributes(state) -> dict:
    """Return the attributes that BUILD sets: a dict, or a pair of dicts (the second for slots)."""
    parts = state if isinstance(state, tuple) else (state,)
    found = {}
    for part in parts:
        if isinstance(part, dict):
            found |= part
    return found


def _storage(reference) -> Storage:
    word, kind, key, *_ = reference
    if word != "storage" or not isinstance(kind, Name) or not isinstance(key, str):
        raise ValueError("a reference to what is no storage")
    return Storage(kind.name, key)

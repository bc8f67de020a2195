"""Conformance suite of cells: checks every promise of the `Cell` contract, one line each.

`python -m jaxmodels.testing --help` lists its uses.

The reference is `step` in a Python loop, differentiated step by step, independent of `scan`, chunks
and custom gradients. Initial states are warm (a few tokens read), never zero. All promises share a
few compiled functions.
"""

import dataclasses
import inspect
import pathlib
import traceback
import typing

import jax

from jaxmodels.cells import CELLS
from jaxmodels.cells.base import Cell
from jaxmodels.cli import did_you_mean
from jaxmodels.errors import UserError
from jaxmodels.python_file import import_file
from jaxmodels.testing.depth import DEPTH, DEPTH_PROMISES, DepthLab
from jaxmodels.testing.derivatives import DERIVATIVES
from jaxmodels.testing.lab import Broken, Lab
from jaxmodels.testing.promises import PROMISES
from jaxmodels.testing.ragged import RAGGED
from jaxmodels.testing.signatures import nothing_to_read, signatures, wrong_shapes
from jaxmodels.xla_flags import warn_if_unsafe

CHECKED = CELLS | DEPTH
FIRST = "construction and signatures"  # the promise without which no other can be checked
CELL_PROMISES = {
    FIRST: signatures,
    "wrong shapes are refused": wrong_shapes,
    "nothing to read": nothing_to_read,
    **PROMISES,
    **RAGGED,
    **DERIVATIVES,
}


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of one promise: its name, True if it holds, and the measured numbers."""

    promise: str
    ok: bool
    detail: str

    def __str__(self):
        return f"{'ok  ' if self.ok else 'FAIL'} {self.promise:<34} {self.detail}"


def check_cell(
    cell, config=None, *, chunk=None, frozen=(), seed=0, only=None, raises=True
) -> list[Result]:
    """Check every promise of `jaxmodels.cells.base.Cell` and print one line for each.

    Args:
      cell: a name in `CELLS`, "hrm" (see `testing.depth`), or a subclass of Cell.
      config: a small config; None means the config class (from CELLS, or from the annotation of
        `config` in `__init__`) with width=32. If it has a field `dtype`, both float32 and bfloat16
        are checked.
      chunk: chunk length of `__call__`; lengths around it are tested. None means config.chunk_size
        or config.remat_chunk if positive, else 16.
      frozen: suffixes of names of parameters that need no gradient.
      seed: seed of parameters and inputs.
      only: names of the promises to check; None means all.
      raises: raise AssertionError if a promise is broken.

    Returns:
      One Result per promise that was checked: only one if the cell cannot be constructed or called.

    Raises:
      AssertionError: a promise is broken; lists them.
      UserError: no such cell or promise, or no config can be constructed for it.
    """
    warn_if_unsafe()
    name, cell_class, config = _resolve(cell, config)
    print(f"{name} {config}", flush=True)
    with jax.default_matmul_precision(None):  # or it would stand in for what the cell forgets
        if name in DEPTH:
            promises = _chosen(DEPTH_PROMISES, only)
            return results_of(
                name, lambda: DepthLab(cell_class, config, tuple(frozen), seed), promises, raises
            )
        promises = _chosen(CELL_PROMISES, only)
        return results_of(
            name, lambda: Lab(cell_class, config, chunk, tuple(frozen), seed), promises, raises
        )


def _chosen(promises: dict, only) -> dict:
    for name in only or ():
        if name not in promises:
            raise UserError(f"no promise {name!r}{did_you_mean(name, promises)}")
    return {name: check for name, check in promises.items() if only is None or name in only}


def results_of(name: str, build, promises, raises: bool) -> list[Result]:
    """Check promises, {name: function of the lab}, and print one line for each.

    What several promises say in the same words is printed once. The first promise fails if `build`,
    which returns the lab, does; then, or if it is `FIRST` and broken, no other is checked.

    Raises:
      AssertionError: `raises`, and a promise is broken; lists them.
    """
    lab, results, told = None, [], {}
    for promise, check in promises.items():
        try:
            lab = build() if lab is None else lab
            result = Result(promise, True, check(lab))
        except Broken as broken:
            result = Result(promise, False, str(broken))
        except Exception as error:  # raised by the code under test: the promise is broken
            result = Result(promise, False, _one_line(error))
        results.append(result)
        shown = result
        if not result.ok and told.setdefault(result.detail, promise) != promise:
            shown = Result(promise, False, f"as {told[result.detail]!r}")
        print(shown, flush=True)
        if not result.ok and (lab is None or promise == FIRST):
            if left := len(promises) - len(results):
                print(f"     {left} more promises need this one and were not checked", flush=True)
            break
    failed = [result for result in results if not result.ok]
    if failed and raises:
        details = dict.fromkeys(result.detail for result in failed)
        lines = "\n".join(
            f"  {', '.join(r.promise for r in failed if r.detail == detail)}: {detail}"
            for detail in details
        )
        raise AssertionError(f"{name} breaks {len(failed)} of {len(promises)} promises\n{lines}")
    return results


def _resolve(cell, config):
    """Return (name, cell class, config in float32)."""
    if isinstance(cell, str):
        if cell not in CHECKED:
            raise UserError(f"unknown cell {cell!r}{did_you_mean(cell, CHECKED)}")
        name, (config_class, cell_class) = cell, CHECKED[cell]
    elif isinstance(cell, type) and issubclass(cell, Cell):
        name, cell_class = cell.__name__, cell
        try:
            config_class = typing.get_type_hints(cell.__init__).get("config")
        except NameError as error:
            raise UserError(f"{name}.__init__: {error}, which annotates an argument") from error
    else:
        raise UserError(f"check_cell needs a name in CELLS or a subclass of Cell, got {cell!r}")
    if config is None:
        if config_class is None:
            raise UserError(f"{name}.__init__ needs `config: ItsConfigClass`, or pass a config")
        config = _of_width(config_class, 32)
    if hasattr(config, "dtype"):
        config = dataclasses.replace(config, dtype="float32")
    return name, cell_class, config


def _of_width(config_class, width):
    try:
        return config_class(width=width)
    except UserError:
        raise
    except Exception as error:
        name = getattr(config_class, "__name__", config_class)
        raise UserError(
            f"{name}(width={width}) must make a config: a field `width`, and a default for each "
            f"other one ({_one_line(error)})"
        ) from error


def _one_line(error):
    """Format the exception and the location outside of this package that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    here = str(pathlib.Path(__file__).parent)
    own = [f for f in frames if "site-packages" not in f.filename and here not in f.filename]
    place = f" ({pathlib.Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    message = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {message[:200]}{place}"


def cells_in_file(path) -> list[type[Cell]]:
    """Return the subclasses of Cell defined in a Python file, in order.

    Raises:
      UserError: no such file, the file fails to run, or it defines no cell.
    """
    module = import_file(path, purpose="of cells")
    cells = [
        item
        for item in vars(module).values()
        if inspect.isclass(item) and issubclass(item, Cell) and item.__module__ == module.__name__
    ]
    if not cells:
        raise UserError(f"{path} defines no subclass of jaxmodels.cells.base.Cell")
    return cells

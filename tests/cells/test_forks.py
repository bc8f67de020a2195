"""What a fork of a cell may do wrong: the suite reports it, in one line, and falls over nothing."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

import jaxmodels.testing
from jaxmodels.errors import UserError
from jaxmodels.testing import CELL_PROMISES, FIRST, cells_in_file, check_cell
from jaxmodels.testing.__main__ import main

EXAMPLE = (pathlib.Path(__file__).parent / "leaky_cell.py").read_text()


def edited(*edits):
    """Return the text of the example with these replacements."""
    text = EXAMPLE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text


def cell_of(tmp_path, text):
    path = tmp_path / "my_cell.py"
    path.write_text(text)
    (cell,) = cells_in_file(path)
    return cell


HELD = "        self.config = config\n"
STATE = "LeakyState(jnp.zeros((batch_size, self.config.width), jnp.float32))"
CANNOT_BE_CHECKED = {
    "an error in __init__": (
        (HELD, f"{HELD}        [][1]\n"),
        "IndexError: list index out of range",
    ),
    "no rngs": ((", *, rngs: nnx.Rngs):", "):"), "got an unexpected keyword argument 'rngs'"),
    "a plain dataclass": (
        ("@struct.dataclass", "@dataclasses.dataclass"),
        "a LeakyState, a plain dataclass; decorate it with flax.struct.dataclass",
    ),
    "an object": (
        ("@struct.dataclass\nclass LeakyState:", "class LeakyState(list):"),
        "LeakyState",
    ),
    "a Python number": ((STATE, "LeakyState(0.0)"), "a float in average, a Python number"),
    "no key": (
        ("step(self, state, x, key=None)", "step(self, state, x)"),
        "step(self, state, x) should be step(self, state, x, key=None): too many positional",
    ),
    "no reset": (
        ("__call__(self, state, xs, reset=None, key=None)", "__call__(self, state, xs)"),
        "__call__(self, state, xs) should be __call__(self, state, xs, reset=None, key=None)",
    ),
    "three results": (
        ("return LeakyState(average), average", "return LeakyState(average), 0, average"),
        "step returns a tuple, should be the pair (state, y)",
    ),
    "one result": (
        ("return LeakyState(average), average", "return average"),
        "step returns a DynamicJaxprTracer, should be the pair (state, y)",
    ),
}


@pytest.mark.parametrize("name", CANNOT_BE_CHECKED)
def test_a_cell_that_cannot_be_called(name, tmp_path, capsys):
    """One FAIL line, and the next cell is checked."""
    edit, part = CANNOT_BE_CHECKED[name]
    path = tmp_path / "my_cell.py"
    path.write_text(edited(edit))
    assert main([str(path), str(path)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert not err and lines[-1] == "2 broken" and len(lines) == 7
    assert lines[1].startswith(f"FAIL {FIRST}") and part in lines[1]
    assert f"{len(CELL_PROMISES) - 1} more promises need this one" in lines[2]


def test_leaves_that_are_no_float_arrays(tmp_path):
    """Keys, integers and flags on the cell, an integer in the state: two broken promises."""
    held = (
        "        self.dropout, self.rngs = nnx.Dropout(0.1, rngs=rngs), rngs\n"
        "        self.table, self.flag = jnp.arange(3), jnp.ones((2,), bool)\n"
    )
    cell = cell_of(
        tmp_path,
        edited(
            (HELD, HELD + held),
            ("# (batch, width)", "# (batch, width)\n    count: jax.Array"),
            (f"return {STATE}", f"return {STATE[:-1]}, jnp.zeros((batch_size,), jnp.int32))"),
            ("LeakyState(average),", "LeakyState(average, state.count + 1),"),
            (
                "LeakyState(average[:, -1])",
                "LeakyState(average[:, -1], jnp.where(jnp.zeros(xs.shape[:2], bool)"
                " if reset is None else reset, 0, 1)[:, -1] + 0 * state.count)",
            ),
        ).replace("def __call__", "def fast"),
    )
    only = [
        "parameters: float32",
        "state: float32, batch first",
        "scan == step",
        "gradients: scan == step",
        "reset == fresh start",
        "every parameter has a gradient",
        "slow decays survive bfloat16",
        "determinism",
        "forward mode: jvp of scan",
    ]
    results = check_cell(cell, only=only, raises=False)
    broken = {result.promise: result.detail for result in results if not result.ok}
    assert broken.keys() == {"parameters: float32", "state: float32, batch first"}
    told = broken["parameters: float32"]
    for part in ("table int32", "flag bool", "from the config", "dropout.rngs", "a PRNG key is no"):
        assert part in told
    assert "count is int32 (initial)" in broken["state: float32, batch first"]


def test_helpers_beside_a_cell(tmp_path, monkeypatch, capsys):
    """A module that the file imports at once, and one that its step imports."""
    monkeypatch.setattr(jaxmodels.testing, "CELL_PROMISES", {FIRST: CELL_PROMISES[FIRST]})
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "my_helper.py").write_text(f"import jax\n\nWHERE = {name!r}\n")
        (folder / "my_late_helper.py").write_text("from my_helper import WHERE\n")
        late = f"        from my_late_helper import WHERE\n\n        assert WHERE == {name!r}\n"
        step = "    def step(self, state, x, key=None):\n"
        text = edited((step, f"{step}{late}"), ("import dataclasses\n", "import my_helper\n"))
        text = text.replace("@dataclasses.dataclass(frozen=True)", "@struct.dataclass")
        (folder / "my_cell.py").write_text(text)
    assert main([str(tmp_path / name / "my_cell.py") for name in ("one", "two")]) == 0
    assert capsys.readouterr().out.count("initial_state, step, scan, __call__") == 2


PRODUCT = """

@jax.custom_vjp
def product(a, b):
    return a * b


def back(residuals, d):
    a, b = jax.lax.stop_gradient(residuals)
    return d * b, d * a


product.defvjp(lambda a, b: (a * b, (a, b)), back)

"""
IN_STEP = ("average * jax.nn.sigmoid(self.gate(x,", "product(average, jax.nn.sigmoid(self.gate(x,")
IN_CALL = (IN_STEP[0].replace("(x,", "(xs,"), IN_STEP[1].replace("(x,", "(xs,"))
NAMES = ("second derivatives", "forward mode: jvp of scan", "gradients inside shard_map")


def products(*edits):
    """Return the example with products that are right to first and wrong to second order."""
    text = edited(("\n\nclass LeakyCell", f"{PRODUCT}class LeakyCell"), *edits)
    return "\n".join(f"{line})" if "product(average" in line else line for line in text.split("\n"))


@pytest.mark.parametrize(
    ("edits", "part"),
    [((IN_CALL,), "call, "), ((IN_STEP,), "call, "), ((IN_CALL, IN_STEP), "of the differences")],
    ids=["call", "step", "both"],
)
def test_wrong_to_second_order(edits, part, tmp_path):
    """Seen against `scan`; where that is as wrong, against differences of gradients."""
    cell = cell_of(tmp_path, products(*edits))
    (result,) = check_cell(cell, only=NAMES[:1], raises=False)
    assert not result.ok and part in result.detail and "off by" in result.detail


def test_a_form_may_refuse_second_derivatives(tmp_path):
    """By name, but `scan` may not."""
    refusing = products(IN_CALL).replace(
        "product.defvjp",
        "@jax.custom_vjp\ndef refused(x):\n    return x\n\n\n"
        "def refuse(x):\n    raise NotDifferentiable('my form has no second derivative')\n\n\n"
        "refused.defvjp(refuse, lambda _, d: (d,))\n\n\nproduct.defvjp",
    )
    refusing = refusing.replace("return d * b, d * a", "return refused(d * b), refused(d * a)")
    named = "import jax\nfrom jaxmodels.errors import NotDifferentiable\n"
    cell = cell_of(tmp_path, refusing.replace("import jax\n", named, 1))
    (result,) = check_cell(cell, only=NAMES[:1])
    assert "call refuses: my form has no second derivative; scan: differences" in result.detail


def test_forward_mode_of_scan(tmp_path):
    cell = cell_of(tmp_path, products(IN_STEP).replace("def __call__", "def fast"))
    (result,) = check_cell(cell, only=NAMES[1:2], raises=False)
    assert not result.ok and "custom_vjp" in result.detail


def test_carries_from_thin_air(tmp_path):
    """Inside shard_map, a loop that starts at zeros is refused by JAX."""
    loop = (
        "        zeros = jnp.zeros(new.shape)\n"
        "        new, _ = jax.lax.scan(lambda c, x: (c + x, None), zeros, new[None])\n"
        "        kept, average = jax"
    )
    cell = cell_of(tmp_path, edited(("        kept, average = jax", loop)))
    (result,) = check_cell(cell, only=NAMES[2:], raises=False)
    assert not result.ok and "TypeError: scan body function carry" in result.detail


def test_arguments_that_are_taken(tmp_path):
    """A reset that would be broadcast, and a state that an empty sequence changes."""
    cell = cell_of(tmp_path, EXAMPLE)
    cell.scan = lambda self, state, xs, reset=None, key=None: (state, xs)
    cell.__call__ = lambda self, state, xs, reset=None, key=None: (
        jax.tree.map(jnp.zeros_like, state),
        xs,
    )
    shapes, empty = check_cell(
        cell, only=["wrong shapes are refused", "nothing to read"], raises=False
    )
    assert (
        not shapes.ok and "scan with reset (3, 1) bool of xs (3, 6, 32) is taken" in shapes.detail
    )
    assert not empty.ok and empty.detail == "call of no tokens changes the state"


def test_unknown_promise():
    with pytest.raises(UserError, match=r"no promise 'vmp'; did you mean 'vmap'\?"):
        check_cell("rwkv4", only=["vmp"])

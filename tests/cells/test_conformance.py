"""The suite holds for every registered cell and sees each sabotage of the example."""

import pathlib
import re
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from jaxmodels.cells import CELLS
from jaxmodels.cells.attention import AttentionConfig
from jaxmodels.cells.base import Cell
from jaxmodels.cells.unified import UnifiedConfig
from jaxmodels.errors import UserError
from jaxmodels.testing import CELL_PROMISES, CHECKED, cells_in_file, check_cell
from jaxmodels.testing.__main__ import main
from jaxmodels.testing.decay import slow_decays
from jaxmodels.testing.derivatives import DERIVATIVES
from jaxmodels.testing.lab import Broken, Lab
from jaxmodels.testing.promises import PROMISES

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "fork_a_cell.md"
EXAMPLE = (pathlib.Path(__file__).parent / "leaky_cell.py").read_text()


# A ring that is full within the lengths tried; the usual one of 1024 tokens takes minutes.
SMALL = {
    "attention": AttentionConfig(32, window=20, chunk_size=16),
    "unified": UnifiedConfig(32, symbol_slots=6),
}


FIRST_ORDER = [name for name in CELL_PROMISES if name not in DERIVATIVES]


@pytest.mark.parametrize("name", CHECKED)
def test_registered_cells(name):
    check_cell(name, SMALL.get(name), only=FIRST_ORDER if name in CELLS else None)


@pytest.mark.parametrize("name", CELLS)
def test_derivatives_of_registered_cells(name):
    check_cell(name, SMALL.get(name), only=DERIVATIVES)


FORGETFUL = [name for name in CELLS if name != "attention"]  # its window forgets, no decay does


@pytest.mark.parametrize("name", FORGETFUL)
def test_a_rounded_decay_is_seen(name):
    """In bfloat16 compute every exponential and sigmoid of the step is rounded to it."""
    config_class, cell_class = CELLS[name]

    class Rounded(cell_class):
        def step(self, *args, **kwargs):
            if self.config.dtype == "float32":
                return super().step(*args, **kwargs)
            exp, sigmoid = rounded(jnp.exp), rounded(jax.nn.sigmoid)
            with mock.patch("jax.numpy.exp", exp), mock.patch("jax.nn.sigmoid", sigmoid):
                return super().step(*args, **kwargs)

        __call__ = Cell.__call__

    with pytest.raises(Broken, match=r"retention 0\.99\d\d by .*left after 256 tokens of"):
        slow_decays(Lab(Rounded, config_class(32), None, (), 0))


def rounded(function):
    """The function, its results rounded to bfloat16."""
    return lambda x: function(x).astype(jnp.bfloat16).astype(jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"core": "rwkv4"}, {"gating": "lower_triangular"}, {"remat_chunk": 8}, {"activation": "silu"}],
    ids=str,
)
def test_unified_variants(changes):
    check_cell("unified", UnifiedConfig(32, symbol_slots=6, **changes))


@pytest.mark.slow
def test_as_written_is_dead_above_the_first_abstraction():
    """Z-07, Z-09: without top-down feedback the suite names the dead layers."""
    config = UnifiedConfig(32, gating="diagonal", double_softmax=True, topdown=False)
    with pytest.raises(AssertionError, match=r"breaks 1 of .*") as caught:
        check_cell("unified", config)
    assert "reduce.layers.1.update.kernel" in str(caught.value)
    assert "reduce.layers.0.update.kernel" not in str(caught.value)


def check(tmp_path, text):
    """The results for a cell file with this text, as {promise: Result}, and the broken ones."""
    path = tmp_path / "my_cell.py"
    path.write_text(text)
    (cell,) = cells_in_file(path)
    results = check_cell(cell, only=PROMISES, raises=False)
    results = {result.promise: result for result in results}
    return results, {promise for promise, result in results.items() if not result.ok}


def test_the_page_shows_the_example():
    assert re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1] == EXAMPLE


def test_the_example_keeps_every_promise(tmp_path, capsys):
    path = tmp_path / "my_cell.py"
    path.write_text(EXAMPLE)
    assert main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("LeakyCell LeakyConfig(width=32")
    assert lines[-1] == "all promises kept"
    rows = re.findall(r"^\| `(.+?)` \|", PAGE.read_text(), re.MULTILINE)
    assert [line[5:39].strip() for line in lines[1:-1]] == rows


FAST = {"call == step", "gradients: call == step", "random resets", "handoff f(A+B) == f(A); f(B)"}
SABOTAGE = {
    "a parameter that nothing reads": (
        ("sigmoid(self.gate(x, dtype))", "sigmoid(x)"),
        ("sigmoid(self.gate(xs, dtype))", "sigmoid(xs)"),
        {"every parameter has a gradient": "gate.bias, gate.kernel"},
    ),
    "a dropped reset": (
        ("if reset is not None:", "if False:"),
        {"random resets": "call", "reset == fresh start": "call: NaN in the state"},
    ),
    "a product instead of a selection": (
        ("jnp.where(kept > 0.0, kept * state.average[:, None], 0.0)",
         "kept * state.average[:, None]"),
        {"reset == fresh start": "call: NaN in the state"},
    ),
    "a wrong derivative": (
        ("kept, average = jax", "new = jax.lax.stop_gradient(new)\n        kept, average = jax"),
        {"gradients: call == step": "off by", "random resets": "off by"},
    ),
    "a derivative that is nearly right": (
        ("kept, average = jax",
         "new += 3e-4 * (new - jax.lax.stop_gradient(new))\n        kept, average = jax"),
        {"gradients: call == step": "off by", "random resets": "off by"},
    ),
    "a wrong chunk border": (
        ("        return LeakyState(average[:, -1])",
         "        if xs.shape[1] > 16:\n"
         "            average = average.at[:, 16].multiply(0.9)\n"
         "        return LeakyState(average[:, -1])"),
        dict.fromkeys(FAST, "") | {"call == step": "call, 17 tokens", "reset == fresh start": "",
                                   "gradients: call == step": "call, 33 tokens"},
    ),
    "a look at the next token": (
        ("sigmoid(self.gate(xs, dtype))", "sigmoid(self.gate(jnp.roll(xs, -1, 1), dtype))"),
        dict.fromkeys(FAST, "") | {"causality": "inputs from 1 on change output [0]",
                                   "reset == fresh start": ""},
    ),
    "rows that see each other": (
        ("    def step(self, state, x, key=None):\n",
         "    def step(self, state, x, key=None):\n        x = x - x.mean(0, keepdims=True)\n"),
        ("    def __call__(self, state, xs, reset=None, key=None):\n",
         "    def __call__(self, state, xs, reset=None, key=None):\n"
         "        xs = xs - xs.mean(0, keepdims=True)\n"),
        {"rows are independent": "row 0", "reset == fresh start": "inputs before the reset"},
    ),
    "a state in the compute dtype": (
        ("return LeakyState(average), average *",
         "return LeakyState(average.astype(dtype)), average *"),
        ("return LeakyState(average[:, -1]), average *",
         "return LeakyState(average[:, -1].astype(dtype)), average *"),
        {"bfloat16 compute, float32 state": "state average is bfloat16"},
    ),
    "a decay in the compute dtype": (
        ("sigmoid(self.decay_logit[...])[None]\n",
         "sigmoid(self.decay_logit[...])[None].astype(dtype).astype(jnp.float32)\n"),
        ("sigmoid(self.decay_logit[...])[None, None]\n",
         "sigmoid(self.decay_logit[...])[None, None].astype(dtype).astype(jnp.float32)\n"),
        {"slow decays survive bfloat16": "state average, retention 0.99"},
    ),
    "a gradient by a decay in the compute dtype": (
        ("kept, average = jax",
         "old = jax.lax.stop_gradient(state.average)\n        kept, average = jax"),
        ("kept * state.average[:, None]",
         "kept * (old + (state.average - old)"
         " * (decay.astype(dtype) / decay)[0] ** xs.shape[1])[:, None]"),
        {"slow decays survive bfloat16": "gradient average, retention 0.99"},
    ),
    "a matmul at the hardware's default": (
        ("sigmoid(self.gate(x, dtype))",
         "sigmoid(x @ self.gate.kernel[...] + self.gate.bias[...][None])"),
        {"float32 matmuls: full precision": "left to the hardware's default: my_cell.py:"},
    ),
    "a state of weak type": (
        ("jnp.zeros((batch_size, self.config.width), jnp.float32)",
         "jnp.broadcast_to(jnp.asarray(0.0), (batch_size, self.config.width))"),
        {"one trace a shape": "traced anew"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SABOTAGE)
def test_the_right_lines_fail(name, tmp_path):
    *edits, expected = SABOTAGE[name]
    text = EXAMPLE
    for old, new in edits:
        assert text.count(old) == 1
        text = text.replace(old, new)
    results, broken = check(tmp_path, text)
    assert broken == set(expected)
    for promise, part in expected.items():
        assert part in results[promise].detail


def test_a_step_that_raises_is_a_broken_promise(tmp_path, capsys):
    text = EXAMPLE.replace("decay * state.average +", "decay * state.mean +")
    results, broken = check(tmp_path, text)
    assert "shapes and dtypes" in broken
    assert re.search(r"AttributeError.*\(my_cell.py:\d+\)", results["shapes and dtypes"].detail)
    told = capsys.readouterr().out
    assert told.count("AttributeError") == 1 and "FAIL vmap" in told
    assert told.count("as 'state: float32, batch first'") == len(broken) - 1


def test_mistakes_are_answered_in_one_line(tmp_path, capsys):
    (tmp_path / "empty.py").write_text("from jaxmodels.cells.base import Cell\n")
    (tmp_path / "broken.py").write_text("import jax\n\nnot_a_name\n")
    (tmp_path / "exits.py").write_text("import sys\n\nsys.exit('enough')\n")
    width, size = "    width: int\n", "    size: int\n"
    assert EXAMPLE.count(width) == 1
    (tmp_path / "no_width.py").write_text(EXAMPLE.replace(width, size))
    (tmp_path / "two_fields.py").write_text(EXAMPLE.replace(width, width + size))
    (tmp_path / "no_config.py").write_text(
        EXAMPLE.replace("config: LeakyConfig", "config: 'Config'")
    )
    fields = "(width=32) must make a config: a field `width`, and a default for each other one"
    for argument, message in (
        (str(tmp_path / "exits.py"), "exits.py: line 3: SystemExit: enough"),
        (str(tmp_path / "no_width.py"), f"LeakyConfig{fields} (TypeError: "),
        (str(tmp_path / "two_fields.py"), f"LeakyConfig{fields} (TypeError: "),
        (str(tmp_path / "no_config.py"), "LeakyCell.__init__: name 'Config' is not defined"),
        ("nowhere/my_cell.py", "nowhere/my_cell.py: no such file"),
        ("unifed", "unknown cell 'unifed'; did you mean 'unified'?"),
        (str(tmp_path / "empty.py"), "defines no subclass of jaxmodels.cells.base.Cell"),
        (
            str(tmp_path / "broken.py"),
            "broken.py: line 3: NameError: name 'not_a_name' is not defined",
        ),
    ):
        assert main([argument]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
    with pytest.raises(UserError, match="a name in CELLS or a subclass"):
        check_cell(UnifiedConfig)
    command = [sys.executable, "-m", "jaxmodels.testing", "nowhere.py"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith("error: nowhere.py: no such file")

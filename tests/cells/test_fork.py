"""The example of docs/fork_a_cell.md: copy a cell, change one equation, then break it."""

import pathlib

import pytest

import jaxmodels.cells.rwkv7
from jaxmodels.testing.__main__ import main

SOURCE = pathlib.Path(jaxmodels.cells.rwkv7.__file__).read_text()


def run(tmp_path, capsys, *changes):
    """Return (exit status, names of broken promises) of the cell with these text changes."""
    text = SOURCE
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in rwkv7.py"
        text = text.replace(old, new)
    path = tmp_path / "my_cell.py"
    path.write_text(text)
    status = main([str(path)])
    lines = capsys.readouterr().out.splitlines()
    return status, {line[5:39].strip() for line in lines if line.startswith("FAIL")}


# A slower decay: a different but valid model.
CHANGED_MATHS = ("-jnp.exp(-0.5) * jax.nn.sigmoid(self.decay", "-0.3 * jax.nn.sigmoid(self.decay")


def test_changed_maths_conforms(tmp_path, capsys):
    assert run(tmp_path, capsys, CHANGED_MATHS) == (0, set())


@pytest.mark.slow
def test_broken_causality_is_detected(tmp_path, capsys):
    """The token shift of `__call__` reads the next token."""
    broken = ("token_shift(xs, state.shift, reset), v_first", "jnp.roll(xs, -1, 1), v_first")
    status, failed = run(tmp_path, capsys, CHANGED_MATHS, broken)
    assert status == 1
    assert {"causality", "call == step", "handoff f(A+B) == f(A); f(B)"} <= failed
    assert not failed & {"scan == step", "determinism", "rows are independent", "vmap"}

"""XLA's CPU compiler computes right under the flags that every command and the tests set."""

import os
import pathlib
import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

import jaxmodels
from jaxmodels import cli, xla_flags
from jaxmodels.xla_flags import FLAG, is_affected, set_safe_flags, warn_if_unsafe

ROOT = pathlib.Path(__file__).parents[1]
ENTRIES = [
    *("eval", "eval.bench", "eval.chat", "eval.diagnostics", "eval.predict", "eval.probes"),
    *("eval.report", "eval.sample", "eval.serve", "eval.stream", "eval.sweep"),
    *("eval.sweep.worker",),
    *("jaxmodels.convert", "jaxmodels.data.build", "jaxmodels.testing"),
    *("train", "train.compile", "train.stages"),
]


def squares_of_rows(count, width):
    """jax-ml/jax#39103: a vmapped matrix-vector product and a sum; integers, so it is exact."""
    first = jnp.arange(count, dtype=jnp.float32) % 4096
    rows = jnp.pad(first[:, None], [(0, 0), (0, width - 1)])
    unit = jnp.eye(width)
    return jax.jit(jax.vmap(lambda row: jnp.sum((unit @ row) ** 2)))(rows)


@pytest.mark.parametrize("width", [2, 3, 4, 16])
@pytest.mark.parametrize("count", [100, 16_385, 32_769, 40_001, 100_001])
def test_the_miscompiled_pattern_is_exact(count, width):
    wanted = (np.arange(count, dtype=np.float32) % 4096) ** 2
    np.testing.assert_array_equal(squares_of_rows(count, width), wanted)


def python(code, **environment):
    """Standard output of a script, started without the flags of this session."""
    dropped = "XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS"  # as users run it
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    environment = kept | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_commands_compute_exactly_in_a_new_process():
    """With jaxlib 0.10.2 this prints False unless the flag is set before the backend starts."""
    out = python("""
import train.__main__  # imports JAX, and everything that training does
from jaxmodels.xla_flags import set_safe_flags, warn_if_unsafe
set_safe_flags()
import numpy as np
from tests.test_xla_flags import squares_of_rows
wanted = (np.arange(32_769, dtype=np.float32) % 4096) ** 2
print((np.asarray(squares_of_rows(32_769, 3)) == wanted).all())
warn_if_unsafe()
""")
    assert out == "True\n"


@pytest.mark.parametrize("name", ENTRIES)
def test_every_command_uses_the_cli_shell(name):
    path = ROOT / name.replace(".", "/")
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__main__.py"
    assert re.search(r"@cli\.command\(|cli\.run\(|return run\(", source.read_text())


@pytest.fixture
def affected(monkeypatch):
    """An affected jaxlib, before its backends start, without flags."""
    monkeypatch.setattr(jaxlib, "__version__", "0.10.2")
    monkeypatch.setattr(xla_flags.xla_bridge, "backends_are_initialized", lambda: False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def test_versions():
    assert [
        v for v in ("0.10.0", "0.10.1", "0.12.0", "0.12.0.1", "0.10.20") if is_affected(v)
    ] == []
    assert all(map(is_affected, ("0.10.2", "0.11.0", "0.11.2", "0.10.2.dev20260101")))


def test_an_affected_version_gets_the_flag(affected, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    set_safe_flags()
    expected = f"--xla_force_host_platform_device_count=8 {FLAG}=individual_dot"
    assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.parametrize("version", ["0.10.1", "0.12.0.1"])
def test_unaffected_versions_get_no_flag(affected, monkeypatch, version):
    monkeypatch.setattr(jaxlib, "__version__", version)
    set_safe_flags()
    warn_if_unsafe.__wrapped__()
    assert "XLA_FLAGS" not in os.environ


@pytest.mark.parametrize("value", ["dot", "", "-reduce"])
def test_user_flags_are_kept(affected, monkeypatch, value):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}={value}")
    set_safe_flags()
    assert os.environ["XLA_FLAGS"] == f"{FLAG}={value}"


def test_no_flag_after_backends_are_initialised(affected, monkeypatch):
    monkeypatch.setattr(xla_flags.xla_bridge, "backends_are_initialized", lambda: True)
    set_safe_flags()
    assert "XLA_FLAGS" not in os.environ


@pytest.mark.parametrize("flags", ["", f"{FLAG}=dot", f"{FLAG}=individual_dot {FLAG}=reduce"])
def test_the_library_warns_once_without_a_safe_flag(affected, monkeypatch, flags):
    monkeypatch.setenv("XLA_FLAGS", flags)
    warn_if_unsafe.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"^jaxlib 0.10.2 can compute wrong") as caught:
            jaxmodels.create("rwkv", vocab_size=8, width=8, num_layers=1)
            jaxmodels.create("rwkv", vocab_size=8, width=8, num_layers=1)
        assert [(w.filename, "\n" in str(w.message)) for w in caught] == [(__file__, False)]
    finally:
        warn_if_unsafe.cache_clear()


@pytest.mark.parametrize("value", xla_flags.SAFE_VALUES)
def test_no_warning_with_a_safe_flag(affected, monkeypatch, value):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}={value}")
    with warnings.catch_warnings(action="error"):
        warn_if_unsafe.__wrapped__()


def test_the_shell_sets_the_flag_before_the_command(affected):
    seen = []
    assert cli.run(lambda: seen.append(os.environ["XLA_FLAGS"])) == 0
    assert seen == [f"{FLAG}={xla_flags.SAFE}"]

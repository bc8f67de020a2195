"""Commands keep compiled programs in the user's cache, unless that is chosen or impossible."""

import os

import jax
import pytest

from eval.bench import cells
from jaxmodels import cli, compile_cache

FIELDS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without settings; JAX's are restored."""
    for name in (*compile_cache.OWN, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cpuinfo").write_text("model name : a\nflags : sse\nbugs : srso\n\nbugs : gds\n")
    monkeypatch.setattr(compile_cache, "CPU_INFO", str(tmp_path / "cpuinfo"))
    before = {name: getattr(jax.config, name) for name in FIELDS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def folder_after_a_command():
    """Return the cache's folder as a command finds it."""
    assert cli.run(lambda: 0) == 0
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    return folder


def test_every_command_keeps_programs_in_the_users_cache(home, monkeypatch):
    folder = folder_after_a_command()
    assert os.path.dirname(folder) == str(home / ".cache" / "jaxmodels")
    assert os.path.isdir(folder)
    assert jax.config.jax_compilation_cache_max_size == compile_cache.MOST_BYTES
    # Another processor that shares the home has a folder of its own.
    (home / "cpuinfo").write_text("model name : a\nflags : sse avx\n")
    assert folder_after_a_command() != folder
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "there"))
    assert os.path.dirname(folder_after_a_command()) == str(home / "there" / "jaxmodels")


@pytest.mark.parametrize("name", compile_cache.OWN)
def test_the_users_choice_stays(home, monkeypatch, name):
    monkeypatch.setenv(name, "/chosen")
    assert folder_after_a_command() is None


def test_compile_times_are_of_compiling(home, monkeypatch):
    assert cli.run(lambda: 0) == 0
    folder, found = jax.config.jax_compilation_cache_dir, []

    class Compiled:
        compile_seconds = 1.0

        def __init__(self, config):
            found.append(jax.config.jax_compilation_cache_dir)

    monkeypatch.setattr(cells, "Experiment", Compiled)
    assert cells.depths(["rwkv4"])[0]["ratio"] == 1.0
    assert found == [None] * 6
    assert jax.config.jax_compilation_cache_dir == folder


@pytest.mark.parametrize("reason", ["refused", "no folder", "read-only", "no home"])
def test_commands_work_without_a_cache(home, monkeypatch, reason):
    if reason == "refused":  # XLA does not load programs that it compiled for these
        (home / "cpuinfo").write_text("flags : avx2\nbugs : spectre_v1 gds mmio\n")
    elif reason == "no folder":
        (home / ".cache").write_text("a file")
    elif reason == "read-only":
        monkeypatch.setattr(os, "access", lambda *_: False)
    else:
        monkeypatch.setattr(compile_cache.Path, "expanduser", _no_home)
    assert folder_after_a_command() is None


def _no_home(path):
    raise RuntimeError("Could not determine home directory.")

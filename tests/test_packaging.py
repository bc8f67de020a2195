"""A built wheel in an environment that holds its declared requirements and nothing else."""

from __future__ import annotations

import email
import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ABSENT = ("grain", "safetensors", "tokenizers", "ml_collections", "matplotlib", "pytest")

# TBPTT: the state of one segment enters the next, and gradients stop between them.
TRAIN = """
import jax, jax.numpy as jnp, optax
import jaxmodels

model = jaxmodels.create("rwkv", seed=0, version=4, vocab_size=17, width=32, num_layers=1)
optimizer = optax.adamw(1e-2)
tokens = jnp.arange(4 * 129).reshape(4, 129) % 17

@jax.jit
def train_step(model, opt_state, state, inputs, targets):
    def loss_fn(model):
        new_state, out = model(state, inputs)
        loss = optax.softmax_cross_entropy_with_integer_labels(out.logits, targets)
        return loss.mean(), new_state
    (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(model)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    return optax.apply_updates(model, updates), opt_state, state, loss

opt_state, state, losses = optimizer.init(model), model.initial_state(4), []
for start in range(0, 128, 8):
    inputs, targets = tokens[:, start : start + 8], tokens[:, start + 1 : start + 9]
    model, opt_state, state, loss = train_step(model, opt_state, state, inputs, targets)
    losses.append(float(loss))
assert losses[-1] < 0.5 * losses[0], losses
print(jaxmodels.__file__, jaxmodels.count_parameters(model))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built in a copy: setuptools writes next to the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("jaxmodels", "train", "tests/goldens"):  # the last two must stay out
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", source / "wheels"]
    command = [sys.executable, "-m", "pip", "wheel", *options, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "wheels").iterdir()
    return built


def closure(requirements: list[str]) -> set[str]:
    """Names of the installed distributions that these requirements need, all levels deep."""
    found: dict[str, set[str]] = {}
    queue = [(Requirement(text), "") for text in requirements]
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        asked = {"", *requirement.extras} - found.get(requirement.name, set())
        found.setdefault(requirement.name, set()).update(asked)
        inner = importlib.metadata.requires(requirement.name) or [] if asked else []
        queue += [(Requirement(text), extra) for text in inner for extra in asked]
    return set(found)


def link(distribution: str, site: Path) -> None:
    """Make an installed distribution importable from another site-packages."""
    installed = importlib.metadata.distribution(distribution)
    for top in {file.parts[0] for file in installed.files} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(installed.locate_file(top)).resolve())


def environment(wheel: Path, folder: Path, *more: str) -> Path:
    """A virtual environment with the wheel and what it requires; returns its interpreter."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (metadata,) = site.glob("jaxmodels-*.dist-info/METADATA")
    required = email.message_from_string(metadata.read_text()).get_all("Requires-Dist")
    for name in closure([*required, *more]):
        link(name, site)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    return environment(wheel, tmp_path_factory.mktemp("bare"))


def run(python: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the interpreter outside the repository, with one CPU device."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    inherited |= {"JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(python), *arguments]
    return subprocess.run(command, cwd=cwd, env=inherited, capture_output=True, text=True)


def test_the_wheel_contains_only_the_library(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(path))
    kept = {name for name in names if ".dist-info/" not in name}
    files = (path for path in (ROOT / "jaxmodels").rglob("*") if path.is_file())
    expected = {str(p.relative_to(ROOT)) for p in files if "__pycache__" not in p.parts}
    assert kept == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_payload(decode=True).decode() == (ROOT / "README.md").read_text()
    assert {"train", "corpus", "convert", "text", "all"} <= set(metadata.get_all("Provides-Extra"))


def test_a_bare_installation_trains_with_carried_state(python, tmp_path):
    done = run(python, tmp_path, "-W", "error", "-c", TRAIN)
    assert done.returncode == 0, done.stderr
    place, count = done.stdout.split()
    assert Path(place).is_relative_to(python.parents[1]) and int(count) > 10_000
    found = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    assert run(python, tmp_path, "-c", found, *ABSENT).stdout == "[]\n"


def test_an_editable_installation_trains_from_any_folder(wheel, tmp_path):
    """`pip install -e .` adds the folder itself, with train, eval and configs, to the path."""
    source = wheel.parents[1]
    build = "from setuptools import build_meta; build_meta.build_editable('editable')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "editable").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "site")
    found = "import site; site.addsitedir('site'); import train; print(train.__file__)"
    # -S: without the environment's own packages, among which this repository may be.
    done = run(sys.executable, tmp_path, "-S", "-c", found)
    assert done.stdout == f"{source}/train/__init__.py\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-m", "jaxmodels.convert", "model.safetensors", "new"],
            "safetensors is not installed; pip install 'jaxmodels[convert]'",
        ),
        (
            ["-m", "jaxmodels.data.build", "factual", "--tokenizer=bpe", "--out=new"],
            "tokenizers is not installed; pip install 'jaxmodels[text]'",
        ),
    ],
)
def test_commands_name_the_missing_extra(python, tmp_path, arguments, message):
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    done = run(python, tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_streams_name_the_missing_extra(python, tmp_path):
    (tmp_path / "a.txt").write_text("some text, line by line\n" * 100)
    make = "d.make_stream(d.load_corpus('a.txt').train, batch_size=2, seq_len=8, seed=0)"
    done = run(python, tmp_path, "-c", f"import jaxmodels.data as d; {make}")
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("UserError: grain is not installed; pip install 'jaxmodels[train]'")


@pytest.mark.slow
def test_a_forked_cell_is_checked_outside_the_repository(python, tmp_path):
    shutil.copy(ROOT / "jaxmodels/cells/rwkv4.py", tmp_path / "my_cell.py")
    done = run(python, tmp_path, "-m", "jaxmodels.testing", "my_cell.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all promises kept\n")


@pytest.mark.slow
def test_weights_convert_with_the_extra(wheel, tmp_path):
    python = environment(wheel, tmp_path / "bare", "safetensors")
    source = ROOT / "tests/goldens/mamba"
    done = run(python, tmp_path, "-m", "jaxmodels.convert", str(source), "mamba")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "mamba").iterdir()) == [
        "config.json",
        "weights.safetensors",
    ]

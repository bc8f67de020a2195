"""Ahead-of-time compilation for TPU topologies, run as a user runs it: in a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxmodels
from jaxmodels.data import Document, load_corpus, make_stream
from jaxmodels.data.labels.relations import RelationLabeller
from jaxmodels.errors import UserError
from jaxmodels.tree import flatten
from tests.train.toy import toy_config
from train.compile import main
from train.devices import aot
from train.devices.placement import Placement

ROOT = Path(__file__).parents[3]
EXPERIMENT = """\
from tests.train.toy import toy_config

def get_config():
    return toy_config(batch_size=64)
"""

try:
    aot.find_libtpu()
    present = True
except UserError:
    present = False
needs_libtpu = pytest.mark.skipif(not present, reason="libtpu is not installed")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("aot") / "toy.py"
    path.write_text(EXPERIMENT)
    return path


def compile_for(experiment, topology, *arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "-m", "train.compile", f"--config={experiment}"]
    return subprocess.run(
        [*command, f"--topology={topology}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "arguments", "chips", "devices", "mesh"),
    [
        ("v5e:4x4", [], 16, 16, {"data": 16}),
        ("v5e:2x4", ["--slices=2"], 16, 16, {"data": 16}),
        ("v4:2x2x2", ["--config.mesh.fsdp=2"], 8, 8, {"data": 4, "fsdp": 2}),
        ("tpu7x:2x2x1", [], 4, 8, {"data": 8}),
        ("v5p:8x8x16", ["--config.batch_size=1024"], 1024, 1024, {"data": 1024}),
    ],
)
def test_compiles_without_hardware(experiment, topology, arguments, chips, devices, mesh):
    done = compile_for(experiment, topology, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["chips"], result["devices"], result["mesh"]) == (chips, devices, mesh)
    sizes = result["bytes"]
    # The toy's parameters (float32) and two moments of AdamW are arguments, whole or split.
    parameters = 4 * (256 * 8 + 2 * (16 * 8 + 8) + 8 * 256 + 256)
    assert 3 * parameters / mesh.get("fsdp", 1) < sizes["arguments"] < 3 * parameters + 2e5
    assert sizes["program"] > 0
    assert 0 < sizes["peak"] < result["hbm_bytes"]
    # The state is donated: inputs alias outputs.
    assert sizes["aliased"] > 0.9 * sizes["outputs"]
    reduced = result["collectives"]["all-reduce"]
    assert reduced["count"] >= 1
    # No communication per token: each sharded parameter is gathered once.
    assert all(entry["in_loops"] == 0 for entry in result["collectives"].values())
    kernels = 4 * (16 * 16 + 8 * 256)
    if "fsdp" in mesh:
        assert kernels / 2 <= result["collectives"]["all-gather"]["bytes"] < 1.2 * kernels
    if len(mesh) == 1 and not arguments[:1] == ["--slices=2"]:
        # Gradients are reduced once, and nothing else of that size.
        assert parameters <= reduced["bytes"] < 1.2 * parameters
    if "--slices=2" in arguments:
        assert result["collectives"]["send"]["count"] >= 1
    assert result["seconds"]["compile"] > 0


@needs_libtpu
def test_parameters_are_gathered_once():
    """`configs/prernk_tpu.py` in small: loops over time within loops over chunks."""
    sizes = {"width": 8, "hidden_size": 16, "symbol_slots": 4, "role_slots": 2, "relation_size": 8}
    sizes |= {"vocab_size": 32, "abstraction_sizes": "16,8", "remat_chunk": 8}
    changes = [f"--config.model_config.{name}={size}" for name, size in sizes.items()]
    changes += ["--config.batch_size=16", "--config.seq_len=16", "--json"]
    done = compile_for(ROOT / "configs" / "prernk_tpu.py", "v5e:2x4", *changes)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["mesh"] == {"data": 2, "fsdp": 4}
    collectives = result["collectives"]
    assert all(entry["in_loops"] == 0 for entry in collectives.values()), collectives
    # All kernels, once, in float32 or in bfloat16.
    total = kernel_bytes("prernk", sizes | {"abstraction_sizes": (16, 8)})
    assert total / 2 <= collectives["all-gather"]["bytes"] <= total


@needs_libtpu
@pytest.mark.parametrize(
    ("version", "mesh"),
    [(4, []), pytest.param(7, ["--config.mesh.fsdp=2"], marks=pytest.mark.slow)],
)
def test_pallas_kernels_compile_over_chips(version, mesh):
    """XLA divides none by itself: every axis of the mesh is the step's own."""
    changes = {"version": version, "width": 128, "num_layers": 1, "kernel": "pallas"}
    changes = [f"--config.model_config.{name}={value}" for name, value in changes.items()]
    changes += ["--config.batch_size=4", "--config.seq_len=16", "--json"]
    done = compile_for(ROOT / "configs" / "rwkv.py", "v5e:2x2", *mesh, *changes)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["collectives"]["all-reduce"]["count"] >= 1


@needs_libtpu
def test_pallas_kernels_are_not_split():
    changes = ["--config.mesh.tensor=2", "--config.model_config.kernel=pallas"]
    done = compile_for(ROOT / "configs" / "rwkv.py", "v5e:2x2", *changes)
    assert done.returncode == 2
    assert "config.mesh.tensor=2 splits what kernel='pallas' needs whole" in done.stderr
    assert done.stderr.count("\n") == 1


def kernel_bytes(model, sizes):
    shapes = jax.eval_shape(lambda: jaxmodels.create(model, **sizes))
    return sum(4 * x.size for name, x in flatten(shapes).items() if name.endswith("/kernel"))


@needs_libtpu
def test_text_output(experiment):
    done = compile_for(experiment, "v5e:2x2")
    assert done.returncode == 0, done.stderr
    for words in ("4 chips", "bytes per chip", "temporaries", "all-reduce", "compiled in"):
        assert words in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
@needs_libtpu
def test_out_of_memory_is_one_line(experiment):
    done = compile_for(experiment, "v5e:2x2", "--config.batch_size=65536", "--config.seq_len=16384")
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("does not fit v5e:2x2: the step needs ")
    assert re.search(r"a device has (15\.75|16\.00)G", done.stdout)  # by the version of libtpu
    assert "--config.batch_size" in done.stdout


@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "arguments", "message"),
    [
        ("v5e:3x3", [], "libtpu refuses it"),
        ("v5e:2x4", ["--slices=3"], "config.batch_size: 64 rows"),
    ],
)
def test_refused_topologies_are_one_line(experiment, topology, arguments, message):
    done = compile_for(experiment, topology, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v9:4x4", "unknown generation 'v9'; choose from: v4:2x2x4, v5e:4x4"),
        ("4x4", "expected a TPU generation"),
        ("v5e:4x4x4", "v5e has 2 axes, e.g. v5e:4x4"),
        ("v5p:4x4", "v5p has 3 axes"),
        ("v5e:0x4", "v5e has 2 axes"),
    ],
)
def test_unknown_topologies_name_the_known_ones(experiment, capsys, topology, message):
    assert main([f"--config={experiment}", f"--topology={topology}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_missing_compiler_prints_install_command(experiment, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.delenv("LIBTPU_DIR", raising=False)
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    assert main([f"--config={experiment}", "--topology=v5e:4x4"]) == 2
    error = capsys.readouterr().err
    assert f"pip install --target {tmp_path / 'tpu'} 'libtpu==0.0." in error
    assert error.count("\n") == 1


def test_compiler_in_another_folder_is_found(monkeypatch, tmp_path):
    library = tmp_path / "libtpu" / "libtpu.so"
    library.parent.mkdir()
    library.touch()
    monkeypatch.setenv("LIBTPU_DIR", str(tmp_path))
    assert aot.find_libtpu() == library


HLO = """
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

%deep (p: f32[2]) -> f32[2] {
  ROOT %a2a = f32[2]{0} all-to-all(%p), dimensions={0}
}

%body (p: f32[2]) -> f32[2] {
  %all-reduce.1 = f32[4,8]{1,0:T(8,128)} all-reduce(%x), channel_id=1, to_apply=%add
  ROOT %g = f32[4]{0} fusion(%all-reduce.1), kind=kLoop, calls=%deep
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %w = f32[2]{0} while(%p), condition=%cond, body=%body
  %ar = (f32[2,2]{1,0:T(8,128)S(1)}, bf16[3]{0}) all-reduce(%a, %b), to_apply=%add
  %ags = (f32[2]{0}, f32[8]{0}, u32[]) all-gather-start(%c), dimensions={0}
  %agd = f32[8]{0} all-gather-done(%ags)
  %f = f32[8]{0} fusion(%all-reduce.1), calls=%add, metadata={op_name="jit(all-reduce(x))"}
  ROOT %rs = s32[] reduce-scatter(%f), dimensions={0}
}
"""
# A chain, one operation spread behind others: a head, a link in a loop, and an end.
CHAIN = """
%head (p: f32[2]) -> f32[8] {
  %g1 = f32[8]{0} all-gather(%p), dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %c1 = (f32[8]{0}, u32[]) custom-call(%g1), custom_call_target="AsyncCollectiveStart"
}

%link (p: f32[2]) -> f32[8] {
  ROOT %g2 = f32[8]{0} all-gather(%p), dimensions={0}, frontend_attributes={chain_id="0"}
}

%end (p: f32[2]) -> f32[8] {
  %g3 = f32[8]{0} all-gather(%p), dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %c3 = f32[8]{0} custom-call(%g3), custom_call_target="AsyncCollectiveDone"
}

%body (p: f32[2]) -> f32[8] {
  ROOT %f = f32[8]{0} fusion(%p), kind=kLoop, calls=%link
}

ENTRY %main (p: f32[2]) -> f32[8] {
  %s = f32[8]{0} fusion(%p), kind=kLoop, calls=%head
  %w = f32[8]{0} while(%s), condition=%cond, body=%body
  ROOT %d = f32[8]{0} fusion(%w), kind=kLoop, calls=%end
}
"""


SCATTER = """
%all-reduce-scatter.3 (p: f32[48], q: bf16[8]) -> (f32[16], bf16[4]) {
  %all-reduce.96 = (f32[64]{0}, bf16[8]{0}) all-reduce(%p, %q), channel_id=1, to_apply=%add
  %slice.1 = f32[16]{0} dynamic-slice(%gte.0, %i), dynamic_slice_sizes={16}
  ROOT %tuple.374 = (f32[16]{0:T(128)S(1)}, bf16[4]{0}) tuple(%slice.1, %slice.2)
}
"""


def test_collectives_are_counted_by_kind():
    assert aot.count_collectives(HLO) == {
        "all-reduce": {"count": 2, "bytes": 4 * 32 + 4 * 4 + 2 * 3, "in_loops": 1},
        "all-to-all": {"count": 1, "bytes": 8, "in_loops": 1},
        "all-gather": {"count": 1, "bytes": 32, "in_loops": 0},
        "reduce-scatter": {"count": 1, "bytes": 4, "in_loops": 0},
    }
    assert aot.count_collectives(CHAIN) == {
        "all-gather": {"count": 1, "bytes": 32, "in_loops": 0},
    }
    assert aot.count_collectives(SCATTER) == {
        "reduce-scatter": {"count": 1, "bytes": 4 * 16 + 2 * 4, "in_loops": 0},
    }
    assert aot.count_collectives("ENTRY %main {\n  ROOT %x = f32[] add(%a, %b)\n}") == {}


def test_distilled_messages():
    newer = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (144.09G) exceeds available HBM (15.75G). HLO module: jit."
        "\nSee more."
    )
    older = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm."
    assert aot.distil(newer).startswith(
        "the step needs 144.09G of device memory, a device has 15.75G;"
    )
    assert aot.distil(older).startswith(
        "the step needs 20.5G of device memory, a device has 15.75G;"
    )
    assert aot.distil("RESOURCE_EXHAUSTED: vmem\nfull").startswith("RESOURCE_EXHAUSTED: vmem full;")


def test_label_shapes_are_those_of_the_stream():
    config = toy_config(
        batch_size=8, data__labels="relations", data__label_slots=3, data__label_roles=2
    )
    shapes = aot._label_shapes(config)
    batch = Placement(config).abstract_batch(shapes)
    text = np.frombuffer(b"The people make the law. " * 40, np.uint8)
    stream = make_stream(
        [Document("a", text)],
        batch_size=8,
        seq_len=config.seq_len,
        seed=0,
        labels=RelationLabeller(3, 2, config.data.label_classes),
    )
    assert_same_arrays(batch, next(iter(stream)))


@pytest.mark.parametrize(("name", "folder"), [("cot", "CoT"), ("hrdoc", "HRDoc")])
def test_shapes_of_labels_from_text(name, folder):
    config = toy_config(data__format=name)
    batch = Placement(config).abstract_batch(aot._label_shapes(config))
    corpus = load_corpus(ROOT / "Data" / folder, format=name, valid_fraction=0, test_fraction=0)
    stream = make_stream(corpus.train, batch_size=8, seq_len=config.seq_len, seed=0)
    assert_same_arrays(batch, next(iter(stream)))


def assert_same_arrays(batch, real):
    assert set(batch) == set(real)
    for name, values in real.items():
        # Under pmap the rows are split over the devices.
        assert np.prod(batch[name].shape) == values.size, name
        assert batch[name].dtype == values.dtype, name

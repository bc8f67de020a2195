"""Cost estimates for absent TPUs: sums over HLO text, and real libtpu output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from eval.bench import tpu
from eval.bench.hlo import profile
from eval.bench.layer import layer_of
from jaxmodels.errors import UserError
from train.devices import aot

ROOT = Path(__file__).parents[3]

try:
    aot.find_libtpu()
    present = True
except UserError:
    present = False
needs_libtpu = pytest.mark.skipif(not present, reason="libtpu is not installed")


def costs(cycles):
    return f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'


# A loop of (10 - 1) / 3 = 3 passes in one of 5, whose inner start (0) and limit (4 passes) come in
# through the outer loop's tuple; a fusion whose parts have estimates of their own; a conditional.
HLO = f"""\
HloModule jit_run, is_scheduled=true, entry_computation_layout={{(f32[2]{{0}})->f32[2]{{0}}}}

FileNames
1 "/somewhere/ops/first.py"
2 "/somewhere/second.py"

FunctionNames
1 "<module>"
2 "Cell.step"

FileLocations
1 {{file_name_id=1 function_name_id=1 line=7 end_line=7 column=0 end_column=3}}
2 {{file_name_id=2 function_name_id=2 line=12 end_line=99 column=4 end_column=27}}

StackFrames
1 {{file_location_id=1 parent_frame_id=1}}
2 {{file_location_id=2 parent_frame_id=1}}


%product (a: f32[8,8], b: f32[8,8]) -> f32[8,8] {{
  %a = f32[8,8]{{1,0:T(8,128)}} parameter(0)
  %b = f32[8,8]{{1,0:T(8,128)}} parameter(1)
  %c = f32[8,8]{{1,0:T(8,128)}} fusion(%a), kind=kLoop, calls=%moved, {costs(1000)}
  ROOT %d = f32[8,8]{{1,0:T(8,128)}} convolution(%c, %b), dim_labels=bf_io->bf, {costs(1000)}
}}

%moved (a.1: f32[8,8]) -> f32[8,8] {{
  %a.1 = f32[8,8]{{1,0}} parameter(0)
  ROOT %t = f32[8,8]{{0,1}} transpose(%a.1), dimensions={{1,0}}
}}

%inner_body (p: (s32[], f32[8,8], s32[])) -> (s32[], f32[8,8], s32[]) {{
  %p = (s32[]{{:T(128)}}, f32[8,8]{{1,0}}, s32[]{{:T(128)}}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = f32[8,8]{{1,0}} get-tuple-element(%p), index=1
  %limit = s32[] get-tuple-element(%p), index=2
  %f = f32[8,8]{{1,0:T(8,128)S(1)}} fusion(%x, %x), kind=kOutput, calls=%product, \
metadata={{op_name="jit(run)/while/body/dot_general" stack_frame_id=2}}, {costs(7)}
  ROOT %out = (s32[], f32[8,8], s32[]) tuple(%next, %f, %limit)
}}

%inner_condition (p.1: (s32[], f32[8,8], s32[])) -> pred[] {{
  %p.1 = (s32[], f32[8,8], s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %limit.1 = s32[] get-tuple-element(%p.1), index=2
  ROOT %lt = pred[] compare(%i.1, %limit.1), direction=LT
}}

%outer_body (q: (s32[], f32[8,8], s32[], s32[])) -> (s32[], f32[8,8], s32[], s32[]) {{
  %q = (s32[], f32[8,8], s32[], /*index=3*/s32[]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %three = s32[] constant(3)
  %next.1 = s32[] add(%j, %three)
  %y = f32[8,8]{{1,0}} get-tuple-element(%q), index=1
  %zero.1 = s32[] get-tuple-element(%q), index=2
  %four.1 = s32[] get-tuple-element(%q), index=3
  %start = s32[] copy(%zero.1)
  %entering = (s32[], f32[8,8], s32[]) tuple(%start, %y, %four.1)
  %loop = (s32[], f32[8,8], s32[]) while(%entering), condition=%inner_condition, body=%inner_body
  %z = f32[8,8]{{1,0}} get-tuple-element(%loop), index=1
  %m = f32[8,8]{{0,1}} copy(%z), {costs(11)}
  ROOT %out.1 = (s32[], f32[8,8], s32[], s32[]) tuple(%next.1, %m, %zero.1, %four.1)
}}

%outer_condition (q.1: (s32[], f32[8,8], s32[], s32[])) -> pred[] {{
  %q.1 = (s32[], f32[8,8], s32[], s32[]) parameter(0)
  %j.1 = s32[] get-tuple-element(%q.1), index=0
  %ten = s32[] constant(10)
  ROOT %lt.1 = pred[] compare(%j.1, %ten), direction=LT
}}

%cheap (b.1: f32[8,8]) -> f32[8,8] {{
  %b.1 = f32[8,8]{{1,0}} parameter(0)
  ROOT %e = f32[8,8]{{1,0}} exponential(%b.1), {costs(100)}
}}

%dear (b.2: f32[8,8]) -> f32[8,8] {{
  %b.2 = f32[8,8]{{1,0}} parameter(0)
  %s = f32[8]{{0}} reduce(%b.2, %b.2), dimensions={{1}}, to_apply=%cheap, {costs(300)}
  ROOT %k = f32[8,8]{{1,0}} custom-call(%s), custom_call_target="tpu_custom_call"
}}

ENTRY %main (x.1: f32[8,8]) -> f32[8,8] {{
  %x.1 = f32[8,8]{{1,0}} parameter(0)
  %begin = s32[] constant(1)
  %zero = s32[] constant(0)
  %four = s32[] constant(4)
  %space = f32[8,8]{{1,0}} custom-call(), custom_call_target="AllocateBuffer"
  %tuple = (s32[], f32[8,8], s32[], s32[]) tuple(%begin, %x.1, %zero, %four)
  %outer = (s32[], f32[8,8], s32[], s32[]) while(%tuple), \
condition=%outer_condition, body=%outer_body
  %r = f32[8,8]{{1,0}} get-tuple-element(%outer), index=1
  %w = f32[8,8]{{1,0}} add(%r, %x.1), metadata={{op_name="add" stack_frame_id=1}}, {costs(5)}
  %never = f32[8,8]{{1,0}} copy(%w), {costs(2**63 - 1)}
  ROOT %cond = f32[8,8]{{1,0}} conditional(%begin, %w, %w), branch_computations={{%cheap, %dear}}
}}
"""


def test_cycles_are_summed_along_the_calls():
    found = profile(HLO)
    # 3 x (4 x 7 + 11) in the loops, 5, and the dearer branch.
    assert found.cycles == 3 * (4 * 7 + 11) + 5 + 300
    assert found.by("kind") == {"reduction": 300, "product": 84, "movement": 33, "elementwise": 5}
    largest = found.costs[1]
    assert (largest.instruction.name, largest.times, largest.cycles) == ("f", 12, 84)
    assert largest.instruction.op_name == "jit(run)/while/body/dot_general"
    assert found.by("source") == {"?": 333, "second.py:12 step": 84, "first.py:7 <module>": 5}
    assert found.without_estimate == {"tpu_custom_call": 1, "copy": 1}
    assert found.unknown_loops == ()


def test_loop_without_constant_trip_count_counts_once():
    # The limit is an input of the program.
    text = HLO.replace("%four = s32[] constant(4)", "%four = s32[] parameter(1)")
    found = profile(text)
    assert found.unknown_loops == ("loop",)
    assert found.cycles == 3 * (7 + 11) + 5 + 300
    # The limit changes on the way.
    changed = HLO.replace("tuple(%next.1, %m, %zero.1, %four.1)", "tuple(%next.1, %m, %zero.1, %j)")
    assert profile(changed).unknown_loops == ("loop",)


def test_layer_of_and_its_flops():
    cell = layer_of("rwkv7", 128, 16, 2, 8)
    assert cell.cell.config.chunk_size == 16
    assert cell.cell.config.dtype == "bfloat16"
    # Two heads of 64 x 64, nine operations per entry, backward pass twice the forward.
    assert cell.flops[1] == 3 * 9 * 2 * 64 * 64
    with pytest.raises(UserError, match=r"unknown cell 'rwkv9'; choose from: .*rwkv7"):
        layer_of("rwkv9", 128, None, 2, 8)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--topology v5e", "expected a TPU generation"),
        ("--topology tpu7x:2x2x1", "unknown generation tpu7x; choose from: v4, v5e, v5p, v6e"),
        ("--batch 0", "--batch=0: give 1 or more"),
        ("--layers 2 --cells rwkv7", "--layers: give --cells presets of models, such as rwkv/7"),
    ],
)
def test_one_line_errors(capsys, line, message):
    assert tpu.main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


ANCHORS = """\
import json
from eval.bench.hlo import profile
from eval.bench.layer import compile_function
from train.devices import aot
aot.prepare_environment(aot.find_libtpu())
import jax
import jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
device = aot.topology_devices("v5e:2x2")[0]

def cycles(function, *shapes, dtype="float32"):
    shapes = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
    return profile(compile_function(function, shapes, device)[0]).cycles

def write(state, xs):
    def step(state, x):
        state = 0.9 * state + x[..., None] * x[..., None, :]
        return state, jnp.einsum("bhkv,bhk->bhv", state, x)
    return jax.lax.scan(step, state, xs)

def nested(state, xs):
    def outer(state, x):
        return jax.lax.scan(lambda s, x: (jnp.tanh(s @ s) + x, None), state, x)
    return jax.lax.scan(outer, state, xs)

state = (8, 16, 64, 64)
print(json.dumps({
    "product": cycles(lambda a, b: a @ b, (4096, 4096), (4096, 4096), dtype="bfloat16"),
    "scans": [cycles(write, state, (t, 8, 16, 64)) for t in (64, 128, 256)],
    "nested": [cycles(nested, (128, 128), (n, 16, 128, 128)) for n in (8, 32)],
}))
"""


@needs_libtpu
def test_anchors():
    """A 4096^3 matmul reaches 96 % of 197 TFLOP/s at 1.5 GHz; loops cost in proportion to T."""
    done = run_program([sys.executable, "-c", ANCHORS])
    found = json.loads(done.stdout)
    assert found["product"] == 1_083_068
    clock, peak, _ = tpu.CHIPS["v5e"]
    assert 2 * 4096**3 * clock / (found["product"] * peak) == pytest.approx(0.966, abs=1e-3)
    first, second, third = found["scans"]
    assert (third - second) / (second - first) == pytest.approx(2.0, rel=0.05)
    assert third / first == pytest.approx(4.0, rel=0.05)
    first, second = found["nested"]
    assert second / first == pytest.approx(4.0, rel=0.05)


@needs_libtpu
@pytest.mark.slow
def test_whole_models_with_kernels(tmp_path):
    """Kernels in the scan over layers count once a layer; a stack's cell takes kernel and chunk."""
    sizes = "--width 128 --time 64 --batch 2 --vocab 64 --layers 3 --chunk-sizes 16".split()
    command = [sys.executable, "-m", "eval.bench", "cells", "--topology", "v5e:2x2"]
    path = tmp_path / "tpu.json"
    names = ["rwkv/6", "stack/gated_delta"]
    run_program([*command, "--kernel", "pallas", "--cells", *names, *sizes, "--json", str(path)])
    for row, kernel in zip(json.loads(path.read_text())["rows"], ("wkv6", "gated"), strict=True):
        assert row["form"] == "call" and row["layers"] == 3
        assert any(name.startswith(kernel) for name in row["kernels"])
        assert "tpu_custom_call" not in row["without_estimate"]


@needs_libtpu
def test_command_line(tmp_path):
    """A small cell: two chunk sizes of the parallel implementation, and the scan."""
    sizes = "--width 64 --time 128 --batch 2 --chunk-sizes 16 32 --top 2".split()
    command = [sys.executable, "-m", "eval.bench", "cells", "--topology", "v5e:2x2"]
    path = tmp_path / "tpu.json"
    done = run_program(
        [*command, "--cells", "rwkv4", *sizes, "--json", str(path), "--hlo", str(tmp_path)]
    )
    small, large, scan = json.loads(path.read_text())["rows"]
    assert (small["form"], small["chunk_size"], large["chunk_size"]) == ("call", 16, 32)
    assert (scan["form"], scan["compiled_at"]) == ("scan", [64, 128])
    assert small["scan_over_call"] == scan["cycles"] / small["cycles"] > 1.0
    assert small["product_flops"] == 6 * 2 * 128 * 4 * 64 * 64
    clock, peak, _ = tpu.CHIPS["v5e"]
    share = small["product_flops"] / (small["cycles"] / clock * peak)
    assert small["utilization"] == pytest.approx(share)
    assert len(small["top"]) == len(small["sources"]) == 2
    assert profile((tmp_path / "rwkv4-call-16.txt").read_text()).cycles == small["cycles"]
    assert "rwkv4, call, chunk 16:" in done.stdout
    assert "compiled at T 64, 128 (" in done.stdout
    assert done.stderr.count("\n") == 4  # one line of progress per program


def test_batch_is_halved_until_it_fits(monkeypatch):
    batches = []

    def refuse(layer, form, batch, time, device):
        batches.append(batch)
        raise aot.DoesNotFit("needs 20G")

    monkeypatch.setattr(tpu, "compile_layer", refuse)
    fields = {"batch": 4, "width": 64, "time": 8, "topology": "v5e:2x2", "kernel": None}
    fields |= {"kernels": None, "layers": None}
    options = type("Options", (), fields)
    with pytest.raises(aot.DoesNotFit):
        tpu.estimate_call("rwkv7", options, None, jax.devices()[0], lambda line: None)
    assert batches == [4, 2, 1]


def run_program(command):
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done

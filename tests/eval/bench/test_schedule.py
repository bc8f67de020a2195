"""Cost of custom kernels: counts over a listing, and real libtpu dumps."""

import json
import sys

import pytest

from eval.bench import tpu
from eval.bench.hlo import profile
from eval.bench.schedule import Schedule, count, size_of, twins
from tests.eval.bench.test_tpu import needs_libtpu, run_program

# 2 bundles; a loop of 6 turns, of 2 bundles, around a loop of 32 / 4 turns of 3 bundles, one of
# which is marked as outside, and one of 1 bundle whose end is no constant, and an empty bundle;
# 1 bundle.
LISTING = """\
LH: loop header
= control target key end

     0   :  { %s1_s0 = inlined_call_operand.hbm [shape: f32[8,128]] }
   0x1   :  { %s2 = smov 0 }
   0x2 LB: > { %s3_s1 = sphi %s2, %s9_s2  ;;  %s4 = smov 1 }
   0x3 LB: >> { %s5_s3 = sadd.s32 4, %s6_s4  ;;  %v1 = vld [vmem:[%s4] sm:$0xff] }
   0x4   : > { %p1 = scmp.ge.s32.totalorder %s5_s3, 32 /* loop exit test */ }
  0x10   : >> { %v3 = vld [vmem:[%s4] sm:$0xff] }
   0x5 LB: >> { %v2 = vld [vmem:[%s4] sm:$0xff] }
   0x6   :  {}
   0x7   : > { %s9_s2 = sadd.s32 1, %s3_s1 /* copy */ ;; %p2 = scmp.ge.s32.totalorder %s9_s2, 6 \
/* loop exit test */ }
0x1008   :  { %10 = vsyncpa [#allocation4], 1 }
"""


def test_bundles_are_multiplied_by_loop_iterations():
    bundles, unknown = count(LISTING)
    assert bundles == 2 + 6 * (1 + 8 * 3 + 2 + 1) + 1
    assert unknown == 1


def test_size_of_counts_padded_tiles_in_hbm():
    assert size_of("f32[8,128]{1,0:T(8,128)}") == 4 * 8 * 128
    assert size_of("f32[8,4096,1]{2,1,0:T(8,128)}") == 4 * 8 * 4096 * 128
    assert size_of("bf16[3,5]{0,1:T(8,128)(2,1)}") == 2 * 8 * 128
    assert size_of("(pred[16,128]{1,0:T(8,128)(4,1)}, f32[9,9]{1,0:T(8,128)S(1)})") == 16 * 128


def test_kernel_cost_is_schedule_or_memory_traffic():
    program = """\
HloModule jit_run

ENTRY %main (a: f32[1024,1024]) -> f32[1024,1024] {
  %a = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %k.1 = f32[1024,1024]{1,0:T(8,128)} custom-call(%a), custom_call_target="tpu_custom_call"
  ROOT %k.2 = f32[1024,1024]{1,0:T(8,128)} custom-call(%k.1, %k.1), \
custom_call_target="tpu_custom_call"
}
"""
    schedules = {"k.1": Schedule(50_000, {}, 0), "k.2": Schedule(10, {}, 0)}

    def cost(instruction, operands):
        return tpu.cost_of_kernel(schedules, "v5e:2x2", instruction, operands)

    costs = {c.instruction.name: c for c in profile(program, cost).costs}
    assert costs["k.1"].cycles == 50_000 and costs["k.1"].kind == "kernel"
    assert costs["k.2"].cycles == pytest.approx(2 * 4 * 2**20 * 1.5e9 / 819e9, abs=1)
    assert profile(program).without_estimate == {"tpu_custom_call": 2}


def test_equal_kernels_share_a_schedule():
    program = """\
  %k.1.x = f32[8,128]{1,0:T(8,128)} custom-call(%a), custom_call_target="tpu_custom_call"
  %k.2.y = f32[8,128]{1,0:T(8,128)} custom-call(%b), custom_call_target="tpu_custom_call"
  %k.3 = f32[16,128]{1,0:T(8,128)} custom-call(%c), custom_call_target="tpu_custom_call"
  ROOT %other.1 = f32[8,128]{1,0:T(8,128)} custom-call(%a), custom_call_target="tpu_custom_call"
"""
    schedule = Schedule(7, {}, 0)
    assert twins(program, {"k.2.y": schedule}) == {"k.1.x": schedule}


@needs_libtpu
def test_schedules_of_compiled_kernels(tmp_path):
    sizes = "--width 256 --time 64 --batch 8 --no-scan".split()
    command = [sys.executable, "-m", "eval.bench", "cells", "--topology", "v5e:2x2"]
    path = tmp_path / "tpu.json"
    done = run_program(
        [*command, "--cells", "rwkv4", "--kernel", "pallas", *sizes, "--json", str(path)]
    )
    (row,) = json.loads(path.read_text())["rows"]
    assert "wkv4_backward" in done.stdout
    names = sorted(name.partition(".")[0] for name in row["kernels"])
    assert names == ["wkv4_backward", "wkv4_forward"]
    # 2 blocks of 32 tokens, 8 turns of 4 tokens each in a block: far more than once through.
    assert all(kernel["bundles"] > 2000 for kernel in row["kernels"].values())
    assert all(kernel["unknown_loops"] == 0 for kernel in row["kernels"].values())
    assert 0.0 < row["kinds"]["kernel"] < 1.0
    assert "tpu_custom_call" not in row["without_estimate"]


ODD_SIZES = """\
import sys
from train.devices import aot
aot.prepare_environment(aot.find_libtpu())
import jax, jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
from eval.bench.layer import compile_function
from jaxmodels.ops.dplr.pallas import dplr_pallas
from jaxmodels.ops.gated_delta import gated_delta_mixer
from jaxmodels.ops.norms.pallas import layer_norm
from jaxmodels.ops.selective_scan.pallas import selective_scan_pallas
from jaxmodels.ops.short_conv.pallas import short_conv_silu
from jaxmodels.ops.ssd.pallas import ssd_pallas
from jaxmodels.ops.wkv4.pallas import WKV4State, wkv4_pallas
from jaxmodels.ops.wkv6 import MixerVectors, wkv6_mixer

device = aot.topology_devices("v5e:2x2")[0]
f32 = lambda *dims: jax.ShapeDtypeStruct(dims, "float32")
B, T = 3, 100

def both(function, *arguments):
    def run(*arguments):
        out, back = jax.vjp(function, *arguments)
        return back(out)

    compile_function(run, arguments, device)

vectors = f32(50), f32(50)
both(wkv4_pallas, WKV4State(*[f32(B, 50)] * 3), f32(B, T, 50), f32(B, T, 50), *vectors)
both(short_conv_silu, f32(B, 6, 3000), f32(B, T, 3000), f32(3000, 7), f32(3000))
both(layer_norm, f32(B, T, 320), f32(320), f32(320))
parts = f32(B, 1, 128, 53 * 64), f32(B, 300, 53 * 64), f32(B, 300, 53), f32(53)
parts = *parts, f32(B, 300, 128), f32(B, 300, 128), f32(53)
both(lambda *each: ssd_pallas(*each, chunk_size=50, dtype="bfloat16"), *parts)
mix = lambda recur, tokens, shared, head_sum: recur(*tokens)
tokens = [f32(B, T, 15 * 64)] * 6
delta_rule = lambda s, *t: dplr_pallas(mix, s, t, {}, chunk_size=50)
both(delta_rule, f32(B, 15, 64, 64), *tokens)
tokens = [f32(B, T, 15 * n) for n in (64, 64, 96, 96)], [f32(B, T, 15)] * 2, f32(96)
options = {"chunk_size": 50, "implementation": "pallas"}
both(lambda s, *t: gated_delta_mixer(s, *t, **options), f32(B, 15, 64, 96), *tokens)
parts = f32(B, 8, 50), f32(B, T, 50), f32(B, T, 50), f32(8, 50), f32(B, T, 8), f32(B, T, 8)
both(selective_scan_pallas, *parts)
tokens, vectors = [f32(B, T, 15 * 64)] * 5, MixerVectors(*[f32(15, 64)] * 3)
options = {"norm_groups": 15, "chunk_size": 32, "implementation": "pallas"}
both(lambda s, *t: wkv6_mixer(s, *t, **options), f32(B, 15, 64, 64), tokens, vectors)
print("all compiled")
"""


@pytest.mark.slow
@needs_libtpu
def test_odd_sizes_compile():
    """Sizes that no block divides are padded."""
    assert run_program([sys.executable, "-c", ODD_SIZES]).stdout.endswith("all compiled\n")

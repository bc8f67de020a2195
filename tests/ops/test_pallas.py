"""Pallas TPU kernels, interpreted, against the XLA implementations; and their building blocks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxmodels.cells import CELLS
from jaxmodels.cells.gated_delta import GatedDeltaConfig
from jaxmodels.cells.hybrid import HybridConfig
from jaxmodels.cells.mamba1 import Mamba1Config
from jaxmodels.cells.mamba2 import Mamba2Cell, Mamba2Config
from jaxmodels.cells.rwkv4 import RWKV4Config
from jaxmodels.cells.rwkv6 import RWKV6Config
from jaxmodels.cells.rwkv7 import RWKV7Config
from jaxmodels.errors import NotDifferentiable, UserError
from jaxmodels.ops.common.pallas_tpu import dot, interleave, select_matmul
from jaxmodels.ops.dplr import dplr
from jaxmodels.ops.gated_delta import gated_delta_mixer
from jaxmodels.ops.head_kernels import run as head_kernels
from jaxmodels.ops.norms import gated_rms_norm, layer_norm, rms_norm
from jaxmodels.ops.selective_scan import pallas as selective_scan_module
from jaxmodels.ops.selective_scan import selective_scan
from jaxmodels.ops.short_conv import short_conv, short_conv_silu
from jaxmodels.ops.ssd import pallas as ssd_module
from jaxmodels.ops.ssd import ssd
from jaxmodels.ops.wkv4 import WKV4State, wkv4
from jaxmodels.ops.wkv6 import MixerVectors, wkv6_mixer
from jaxmodels.testing import CELL_PROMISES, check_cell
from jaxmodels.testing.lab import quick_jit, shaken

BATCH = 2
# Relative to the largest entry of an array: float32, summed in another order.
CLOSE = 2e-5


def draws(seed=0):
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


def resets(time, seed=1):
    reset = np.random.default_rng(seed).random((BATCH, time)) < 0.1
    reset[0, 0], reset[1, :4] = True, False
    return reset


def values_and_gradients(function, arguments):
    """(values, gradients of all arguments) for random cotangents of all values."""

    def both(*arguments):
        values, back = jax.vjp(function, *arguments)
        leaves, tree = jax.tree.flatten(values)
        draw = draws(7)
        return values, back(jax.tree.unflatten(tree, [draw(*x.shape) for x in leaves]))

    return quick_jit(both)(*arguments)


def check_equal(kernel, reference, arguments, tolerance=CLOSE):
    """Values and gradients of the kernel are those of the reference."""
    got, want = (values_and_gradients(f, arguments) for f in (kernel, reference))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = max(float(jnp.abs(w).max()), 1e-6)
        assert float(jnp.abs(g - w).max()) <= tolerance * scale, (g.shape, scale)


def check_implementations(op, arguments, tolerance=CLOSE):
    """Values and gradients of the op are the same by "pallas" and by "xla"."""
    kernel, reference = (functools.partial(op, implementation=i) for i in ("pallas", "xla"))
    check_equal(kernel, reference, arguments, tolerance)


SLOW = [
    pytest.param(cell, marks=pytest.mark.slow)
    for cell in ("rwkv6", "rwkv7", "gated_delta", "mamba2")
]


@pytest.mark.parametrize("cell", ["rwkv4", *SLOW])
def test_pallas_cells_conform(cell):
    configs = {
        "rwkv4": RWKV4Config(32, chunk_size=16, kernel="pallas"),
        "rwkv6": RWKV6Config(32, head_size=16, chunk_size=16, kernel="pallas"),
        "rwkv7": RWKV7Config(32, head_size=16, chunk_size=16, kernel="pallas"),
        "gated_delta": GatedDeltaConfig(32, head_size=16, chunk_size=16, kernel="pallas"),
        "mamba1": Mamba1Config(32, state_size=4, kernel="pallas"),
        "mamba2": Mamba2Config(
            32, state_size=8, head_size=16, norm_groups=2, chunk_size=16, kernel="pallas"
        ),
    }
    # Interpreted, kernels need check_vma=False; see the next test.
    kept = [promise for promise in CELL_PROMISES if promise != "gradients inside shard_map"]
    check_cell(cell, configs[cell], only=kept)


SHARDED = {
    "wkv4": lambda x, w: wkv4(
        WKV4State(*jnp.zeros((3, *x.shape[::2]))), x, x, w, w, implementation="pallas"
    )[1],
    "selective_scan": lambda x, w: selective_scan(
        jnp.zeros((x.shape[0], 4, 128)),
        *(x * w[None, None], x, -jnp.ones((4, 128)), x[..., :4], x[..., :4]),
        implementation="pallas",
    )[1],
    "wkv6": lambda x, w: wkv6_mixer(
        jnp.zeros((x.shape[0], 1, 128, 128)),
        (x * w[None, None], -x, x, x, x),
        MixerVectors(w[None], w, w),
        norm_groups=1,
        implementation="pallas",
    )[1],
    "gated_delta": lambda x, w: gated_delta_mixer(
        jnp.zeros((x.shape[0], 1, 128, 128)),
        (x * w[None, None], x, x, x),
        (-x[..., :1], x[..., :1]),
        w,
        implementation="pallas",
    )[1],
    "norms": lambda x, w: layer_norm(x, w, w, implementation="pallas"),
    "short_conv": lambda x, w: short_conv_silu(
        jnp.zeros((x.shape[0], 2, x.shape[2])),
        x,
        jnp.stack([w, w, w], 1),
        w,
        implementation="pallas",
    )[1],
}


@pytest.mark.parametrize("op", SHARDED)
def test_gradients_inside_shard_map(op, monkeypatch):
    """Under `check_vma`, the default, lowered for a TPU: the interpreter has no axes."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def inside(x, w):
        return jax.grad(lambda w: jax.lax.psum(SHARDED[op](x, w).sum(), "data"))(w)

    sharded = jax.jit(jax.shard_map(inside, mesh=mesh, in_specs=(P("data"), P()), out_specs=P()))
    arguments = jnp.ones((2, 16, 128)), jnp.ones((128,))
    with pytest.raises(UserError, match=r"^the Pallas kernel \w+ .*check_vma=False"):
        sharded.trace(*arguments)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    lowered = sharded.trace(*arguments).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text() and "all_reduce" in lowered.as_text()


def test_second_derivatives_are_refused_by_name():
    draw = draws()
    vectors = np.float32([1.0]), np.float32([0.5])

    def loss(k, implementation):
        state = WKV4State(*np.zeros((3, 1, 1), np.float32))
        return jnp.sum(jnp.sin(wkv4(state, k, k, *vectors, implementation=implementation)[1]))

    k = draw(1, 3, 1)
    twice = jax.grad(lambda k, i: jnp.sum(jnp.square(jax.grad(loss)(k, i))))
    assert np.isfinite(twice(k, "xla")).all()
    for derivative in (twice, lambda k, i: jax.jvp(jax.grad(lambda k: loss(k, i)), (k,), (k,))):
        with pytest.raises(NotDifferentiable, match=r'Pallas kernel wkv4_.*set kernel="xla"'):
            derivative(k, "pallas")


def wkv4_sums(*arguments, **options):
    """`wkv4` without the state's exponent: a point of reference, of which only the sums count."""
    state, y = wkv4(*arguments, **options)
    return state.p, state.q, y


def wkv4_state(draw, *shape):
    return WKV4State(draw(*shape), np.exp(draw(*shape)), draw(*shape))


@pytest.mark.parametrize("with_resets", [False, True], ids=["without_resets", "with_resets"])
def test_wkv4_over_blocks_of_rows_width_and_time(with_resets):
    """9 rows are two blocks of 8, 640 channels two of 512, 37 tokens two of 32."""
    draw = draws()
    rows = 9 if with_resets else BATCH
    state = wkv4_state(draw, rows, 640)
    tokens = draw(rows, 37, 640), draw(rows, 37, 640), np.exp(draw(640)), draw(640)
    reset = np.random.default_rng(0).random((rows, 37)) < 0.1 if with_resets else None
    check_implementations(functools.partial(wkv4_sums, reset=reset), (state, *tokens))


@pytest.mark.parametrize(
    ("heads", "head", "dtype"), [(5, 64, "float32"), (6, 4, "float32"), (6, 4, "bfloat16")]
)
def test_ssd_in_blocks_and_packs_of_heads(monkeypatch, heads, head, dtype):
    """5 heads of 64 are two blocks of 4, in packs of two, most of the second padding."""
    monkeypatch.setattr(ssd_module, "WIDTH", 16)  # 256 channels at chunk and state of 8
    draw, time = draws(), 21
    x, delta = draw(BATCH, time, heads * head), np.exp(2.0 * draw(BATCH, time, heads) - 2.0)
    state, b, c = draw(BATCH, 1, 8, heads * head), draw(BATCH, time, 8), draw(BATCH, time, 8)
    reset, a, d = resets(time), -np.exp(draw(heads)), draw(heads)
    op = functools.partial(ssd, reset=reset, chunk_size=8, dtype=dtype)
    check_implementations(op, (state, x, delta, a, b, c, d))


@pytest.mark.slow
@pytest.mark.parametrize(("time", "width", "states"), [(5, 16, 4), (21, 200, 3)])
def test_selective_scan_over_blocks_of_width_and_time(monkeypatch, time, width, states):
    """200 channels are two blocks of 128, 21 tokens three of 8."""
    monkeypatch.setattr(selective_scan_module, "TOKENS", 8)
    draw = draws()
    x, delta = draw(BATCH, time, width), np.exp(draw(BATCH, time, width) - 1.0)
    a, b, c = -np.exp(draw(states, width)), draw(BATCH, time, states), draw(BATCH, time, states)
    op = functools.partial(selective_scan, reset=resets(time))
    check_implementations(op, (draw(BATCH, states, width), x, delta, a, b, c))


def mixed(recur, tokens, shared, head_sum):
    """Mix as RWKV-7: a unit removal direction, a bonus, a gate."""
    r, log_w, k, v, gate = tokens
    unit = k * jax.lax.rsqrt(head_sum(k * k) + 1e-6)
    state, y = recur(r, log_w, k, v, -unit, unit * 0.5)
    return state, (y + head_sum(r * k * shared) * v) * gate


def dplr_mixed(state, r, log_w, k, v, gate, bonus, **options):
    """`dplr` with `mixed` around it."""
    return dplr(mixed, state, (r, log_w, k, v, gate), bonus, **options)


def dplr_arguments(time, heads, head):
    draw = draws()
    r, k, v, gate = (draw(BATCH, time, heads * head) for _ in range(4))
    log_w = -0.6 / (1.0 + np.exp(draw(BATCH, time, heads * head)))
    return draw(BATCH, heads, head, head), r, log_w, k, v, gate, draw(heads, head)


def test_dplr_in_blocks_of_packs():
    """9 heads of 64 are 5 packs of two in two blocks of 4, the last head and packs padding."""
    op = functools.partial(dplr_mixed, reset=resets(21), chunk_size=8)
    check_implementations(op, dplr_arguments(21, heads=9, head=64))


def gated_delta_arguments(time, heads, keys, values):
    draw = draws()
    q, k = (draw(BATCH, time, heads * keys) for _ in range(2))
    v, z = (draw(BATCH, time, heads * values) for _ in range(2))
    g, beta = -np.exp(draw(BATCH, time, heads)), 1.0 / (1.0 + np.exp(draw(BATCH, time, heads)))
    return draw(BATCH, heads, keys, values), q, k, v, z, g, beta, 1.0 + draw(values)


def gated_delta_mixed(state, q, k, v, z, g, beta, scale, **options):
    """`gated_delta_mixer` of flat arguments."""
    return gated_delta_mixer(state, (q, k, v, z), (g, beta), scale, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("time", "heads", "keys", "values"), [(9, 2, 8, 16), (21, 9, 64, 128)])
def test_gated_delta_in_blocks_of_packs(time, heads, keys, values):
    """9 heads of 64 are 5 packs of two in two blocks of 4, the last head and packs padding."""
    op = functools.partial(gated_delta_mixed, reset=resets(time), chunk_size=8)
    check_implementations(op, gated_delta_arguments(time, heads, keys, values))


def wkv6_arguments(time, heads, keys, values):
    draw = draws()
    r, k = (draw(BATCH, time, heads * keys) for _ in range(2))
    v, z = (draw(BATCH, time, heads * values) for _ in range(2))
    log_w = -np.exp(2.0 * draw(BATCH, time, heads * keys))
    vectors = draw(heads, keys), 1.0 + draw(heads * values), draw(heads * values)
    return draw(BATCH, heads, keys, values), r, log_w, k, v, z, *vectors


def wkv6_mixed(state, r, log_w, k, v, z, *vectors, **options):
    """`wkv6_mixer` of flat arguments."""
    return wkv6_mixer(state, (r, log_w, k, v, z), MixerVectors(*vectors), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("time", "heads", "keys", "values", "groups"),
    [(9, 2, 8, 16, 2), (9, 2, 8, 8, 1), (21, 9, 64, 64, 9)],
)
def test_wkv6_in_blocks_of_packs(time, heads, keys, values, groups):
    """See `test_gated_delta_in_blocks_of_packs`; also a norm over parts that are not heads."""
    op = functools.partial(wkv6_mixed, reset=resets(time), chunk_size=8, norm_groups=groups)
    check_implementations(op, wkv6_arguments(time, heads, keys, values))


def as_on_a_tpu(monkeypatch):
    """Let interpreted kernels of `ops/head_kernels` multiply by three bfloat16 passes."""
    call = head_kernels.kernel_call

    def rounded(body, name, **options):
        return call(lambda *refs, exact: body(*refs, exact=False), name, **options)

    monkeypatch.setattr(head_kernels, "kernel_call", rounded)


def test_dplr_with_three_pass_matmuls(monkeypatch):
    """16 bits per factor, with chunks of 64 and an inverse."""
    as_on_a_tpu(monkeypatch)
    op = functools.partial(dplr_mixed, reset=resets(70), chunk_size=64)
    check_implementations(op, dplr_arguments(70, heads=2, head=16), tolerance=2e-4)


@pytest.mark.slow
def test_gated_delta_with_three_pass_matmuls(monkeypatch):
    """16 bits per factor, with chunks of 64 and an inverse."""
    as_on_a_tpu(monkeypatch)
    op = functools.partial(gated_delta_mixed, reset=resets(70), chunk_size=64)
    check_implementations(op, gated_delta_arguments(70, 2, 16, 32), tolerance=2e-4)


@pytest.mark.slow
def test_wkv6_with_three_pass_matmuls(monkeypatch):
    """16 bits per factor, with chunks of 64."""
    as_on_a_tpu(monkeypatch)
    op = functools.partial(wkv6_mixed, reset=resets(70), chunk_size=64, norm_groups=2)
    check_implementations(op, wkv6_arguments(70, 2, 16, 16), tolerance=2e-4)


@pytest.mark.parametrize(("time", "width", "taps"), [(300, 600, 4), (2, 8, 4), (9, 8, 2)])
def test_short_conv(time, width, taps):
    """300 tokens are two blocks of 256, 600 channels two of 512, most of the second padding; 2
    tokens leave some of the state in the state.
    """
    draw = draws()
    reset = resets(time) if time > 2 else None
    arguments = draw(BATCH, taps - 1, width), draw(BATCH, time, width), draw(width, taps)

    def reference(*arguments):
        state, y = short_conv(*arguments, reset)
        return state, jax.nn.silu(y)

    kernel = functools.partial(short_conv_silu, reset=reset, implementation="pallas")
    check_equal(kernel, reference, (*arguments, draw(width)))


@pytest.mark.slow
def test_extreme_decays_over_257_tokens():
    """Retention from 0 to 1 - 1e-7, from a nonzero state, across chunk boundaries."""
    draw, time = draws(), 257
    reset = resets(time)
    decay = np.exp(np.linspace(-16, 5, 24, dtype=np.float32))
    state = wkv4_state(draw, BATCH, 24)
    tokens = 20.0 * draw(BATCH, time, 24), draw(BATCH, time, 24), decay, 5.0 * draw(24)
    check_implementations(functools.partial(wkv4_sums, reset=reset), (state, *tokens))

    delta, a = np.exp(6.0 * draw(BATCH, time, 6)), -np.exp(3.0 * draw(6))
    x, b, c = draw(BATCH, time, 24), draw(BATCH, time, 8), draw(BATCH, time, 8)
    arguments = draw(BATCH, 1, 8, 24), x, delta, a, b, c, draw(6)
    # The slope of a decay is the difference of large numbers, by either implementation.
    op = functools.partial(ssd, reset=reset, chunk_size=64)
    check_implementations(op, arguments, tolerance=1e-4)

    state, r, log_w, *rest = dplr_arguments(time, heads=2, head=16)
    log_w = np.where(np.random.default_rng(0).random(log_w.shape) < 0.5, -0.6065, -1e-7)
    op = functools.partial(dplr_mixed, reset=reset, chunk_size=64)
    check_implementations(op, (state, r, log_w.astype(np.float32), *rest), tolerance=1e-4)

    delta, a = np.exp(6.0 * draw(BATCH, time, 24)), -np.exp(3.0 * draw(4, 24))
    arguments = draw(BATCH, 4, 24), draw(BATCH, time, 24), delta, a, b[..., :4], c[..., :4]
    op = functools.partial(selective_scan, reset=reset)
    check_implementations(op, arguments, tolerance=1e-4)

    state, r, log_w, *rest = wkv6_arguments(time, 2, 16, 16)
    log_w = -np.exp(np.random.default_rng(0).uniform(-16, 5, log_w.shape)).astype(np.float32)
    op = functools.partial(wkv6_mixed, reset=reset, chunk_size=64, norm_groups=2)
    check_implementations(op, (state, r, log_w, *rest), tolerance=1e-4)

    state, *tokens, g, beta, scale = gated_delta_arguments(time, 2, 16, 32)
    g = -np.exp(np.random.default_rng(0).uniform(-16, 5, g.shape)).astype(np.float32)
    op = functools.partial(gated_delta_mixed, reset=reset, chunk_size=64)
    check_implementations(op, (state, *tokens, g, beta, scale), tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["rwkv4", "rwkv6", "rwkv7", "gated_delta", "mamba1", "mamba2"])
def test_16k_tokens_stay_finite(name, dtype):
    cell, xs = small_cell(name, 64, dtype=dtype), draws()(1, 16_384, 32)

    def loss(cell, state):
        state, y = cell(state, xs)
        return jnp.sum(y * y), (state, y)

    out = jax.jit(jax.value_and_grad(loss, has_aux=True))(cell, cell.initial_state(1))
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(out))


def test_norms():
    """2 x 19 tokens are three blocks of 16."""
    draw = draws()
    x, z, scale, bias = draw(2, 19, 8), draw(2, 19, 8), draw(8), draw(8)
    wide = jnp.repeat(3.0 + x, 1024, -1), jnp.repeat(scale, 1024), jnp.repeat(bias, 1024)
    check_implementations(layer_norm, wide)

    def reference(y, z, scale):
        return rms_norm(y * jax.nn.silu(z), scale, 1e-5)

    kernel = functools.partial(gated_rms_norm, implementation="pallas")
    check_equal(kernel, reference, (x, z, scale))


@pytest.mark.parametrize(("width", "groups"), [(256, 4), (256, 2), (24, 3), (192, 2)])
def test_gated_norm_of_groups(width, groups):
    """Two groups per register, one, three in a part of one, and, by XLA, one and a half."""
    draw = draws()
    y, z, scale = draw(2, 5, width), draw(2, 5, width), draw(width)
    check_implementations(functools.partial(gated_rms_norm, groups=groups), (y, z, scale))


def small_cell(name, chunk_size, **changes):
    """Return a cell of width 32 with Pallas kernels and no zero parameters."""
    sizes = {
        "rwkv6": {"head_size": 16},
        "rwkv7": {"head_size": 16},
        "gated_delta": {"head_size": 16},
        "mamba1": {"state_size": 4},
        "mamba2": {"state_size": 8, "head_size": 16},
    }
    config_class, cell_class = CELLS[name]
    fields = {"chunk_size": chunk_size, "kernel": "pallas", **sizes.get(name, {}), **changes}
    return shaken(cell_class(config_class(32, **fields), rngs=nnx.Rngs(0)), 0)


MEMORY = {"mamba1": "ssm", "mamba2": "ssm", "gated_delta": "memory"}


@pytest.mark.parametrize("name", ["rwkv4", "rwkv6", "rwkv7", "gated_delta", "mamba1", "mamba2"])
def test_nan_of_finished_document_is_dropped(name):
    """With a reset inside a chunk, NaN tokens before it have no effect after it."""
    cell = small_cell(name, 8)
    state = cell.initial_state(BATCH)
    memory = MEMORY.get(name, "wkv")
    nan = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), getattr(state, memory))
    reset = np.zeros((BATCH, 12), bool)
    reset[:, 3] = True
    arguments = state.replace(**{memory: nan}), draws()(BATCH, 12, 32), reset
    state, y = quick_jit(lambda cell, *each: cell(*each))(cell, *arguments)
    assert not bool(jnp.isfinite(y[:, :3]).any())
    assert bool(jnp.isfinite(y[:, 3:]).all())
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state))


def test_dropped_state_has_no_gradient():
    """NaN in the state, a reset at the first token of all or of the second chunk: none after it."""
    draw, time = draws(), 12
    x, b, c = draw(BATCH, time, 32), draw(BATCH, time, 8), draw(BATCH, time, 8)
    delta, a, d = np.exp(draw(BATCH, time, 2)), -np.exp(draw(2)), draw(2)
    state = np.full((BATCH, 1, 8, 32), np.nan, np.float32)

    def loss(c, reset):
        options = {"chunk_size": 8, "implementation": "pallas"}
        last, y = ssd(state, x, delta, a, b, c, d, reset, **options)
        return jnp.sum(jnp.where(jnp.isfinite(y), y, 0.0)) + jnp.sum(last)

    for place in (0, 8):
        reset = np.zeros((BATCH, time), bool)
        reset[:, place] = True
        gradient = quick_jit(jax.grad(loss))(c, reset)
        assert bool(jnp.isfinite(gradient[:, place:]).all()), place


def test_mamba2_write_gate():
    config = Mamba2Config(32, state_size=8, head_size=16, chunk_size=8)
    cell = Mamba2Cell(config, rngs=nnx.Rngs(0))
    draw = draws()
    xs, write = draw(BATCH, 11, 32), np.random.default_rng(0).random((BATCH, 11)).astype("float32")

    def run(kernel):
        cell.config = dataclasses.replace(config, kernel=kernel)
        return quick_jit(lambda c, *each: c(*each, write=write))(cell, cell.initial_state(2), xs)

    for got, want in zip(*map(jax.tree.leaves, (run("pallas"), run("xla"))), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("over", [(1, 0), (1, 1), (0, 0), (0, 1)], ids=str)
def test_two_part_matmuls_keep_16_bits(over):
    draw = draws()
    shape = {0: (32, 16), 1: (16, 32)}  # the axis of 32 is summed over
    x, y = draw(*shape[over[0]]), draw(*shape[over[1]])

    def run(x, y):
        out, back = jax.vjp(functools.partial(dot, False, over), x, y)
        return out, *back(out)

    got = jax.jit(run)(x, y)
    exact_x, exact_y = (np.asarray(z, np.float64) for z in (x, y))
    left = exact_x if over[0] == 1 else exact_x.T
    right = exact_y if over[1] == 0 else exact_y.T
    out = left @ right
    d_left, d_right = out @ right.T, left.T @ out
    want = out, d_left if over[0] == 1 else d_left.T, d_right if over[1] == 0 else d_right.T
    for a, b in zip(got, want, strict=True):
        assert np.abs(a - b).max() < 2.0**-14 * np.abs(b).max()
        rounded = np.abs(np.asarray(jnp.bfloat16(x), np.float64) - x).max()
        assert rounded > 2.0**-11  # one part would not do


@pytest.mark.parametrize(("side", "size"), [("left", 12), ("left", 16), ("right", 12)])
def test_three_part_matmuls_are_float32(side, size):
    """Sums over 16 rows are one matmul, those over 12 one for each part."""
    draw = draws()
    choice = np.float32(np.tri(size))
    x = draw(size, size) * np.float32(1e3)

    def run(x):
        out, back = jax.vjp(functools.partial(select_matmul, False, 3, side, choice), x)
        return out, *back(out)

    out, d_x = jax.jit(run)(x)
    wide, exact = choice.astype(np.float64), np.asarray(x, np.float64)
    want = wide @ exact if side == "left" else exact @ wide
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
    back = wide.T @ want if side == "left" else want @ wide.T
    np.testing.assert_allclose(d_x, back, rtol=1e-5, atol=1e-6 * np.abs(back).max())


def test_interleave_equals_sequential_calls():
    draw = draws()
    shared = jnp.asarray(draw(3))
    each = [(draw(3), {"z": draw(3)}) for _ in range(3)]

    def function(x, more):
        scaled = jnp.sin(shared) * 2.0  # the same for all
        return {"y": jnp.where(x > 0.0, x, more["z"]) * scaled, "plain": x}, scaled

    got = jax.jit(lambda each: interleave(function, each))(each)
    for a, arguments in zip(got, each, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, function(*arguments))

    names = [
        str(step.primitive) for step in jax.make_jaxpr(lambda e: interleave(function, e))(each).eqns
    ]
    assert names.count("sin") == 1 and names.count("gt") == 3
    first, last = names.index("gt"), len(names) - 1 - names[::-1].index("gt")
    assert last == first + 2  # one operation for all, then the next


def test_unsupported_configs_are_rejected():
    for make in (
        lambda: RWKV4Config(32, kernel="triton"),
        lambda: Mamba2Config(32, groups=2, head_size=16, kernel="pallas"),
        lambda: Mamba2Config(32, conv_size=9, kernel="pallas"),
        lambda: HybridConfig(32, chunk_size=12, kernel="pallas"),
        lambda: Mamba1Config(32, conv_size=9, kernel="pallas"),
        lambda: RWKV6Config(32, chunk_size=48, kernel="pallas"),
        lambda: GatedDeltaConfig(32, conv_size=9, kernel="pallas"),
    ):
        with pytest.raises(UserError, match="kernel"):
            make()


def test_unknown_implementations_are_rejected():
    ones = jnp.ones((1, 8))
    with pytest.raises(UserError, match=r"'triton'.*choose from: auto, xla, pallas"):
        layer_norm(ones, ones[0], ones[0], implementation="triton")

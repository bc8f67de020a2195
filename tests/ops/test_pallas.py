"""The kernels for a TPU, interpreted, against the ops that they stand for; and what they share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells import CELLS
from jaxmodels.cells.layers import layer_norm, rms_norm
from jaxmodels.cells.mamba2 import Mamba2Cell, Mamba2Config
from jaxmodels.cells.rwkv4 import RWKV4Config
from jaxmodels.cells.rwkv7 import RWKV7Config
from jaxmodels.errors import UserError
from jaxmodels.ops.common.pallas_tpu import dot, interleave, select_matmul
from jaxmodels.ops.dplr import pallas as dplr_kernel_module
from jaxmodels.ops.dplr.chunked import dplr_mixed
from jaxmodels.ops.dplr.pallas import dplr_kernel
from jaxmodels.ops.norms.pallas import gated_norm_kernel, layer_norm_kernel
from jaxmodels.ops.short_conv.pallas import conv_silu_kernel
from jaxmodels.ops.short_conv.xla import short_conv
from jaxmodels.ops.ssd import pallas as ssd_kernel_module
from jaxmodels.ops.ssd.chunked import ssd_chunked
from jaxmodels.ops.ssd.pallas import ssd_kernel
from jaxmodels.ops.wkv4.chunked import WKV4State, wkv4_chunked
from jaxmodels.ops.wkv4.pallas import wkv4_kernel
from jaxmodels.testing import check_cell
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


def agree(kernel, op, arguments, tolerance=CLOSE):
    """Values, and gradients of all arguments for cotangents of all values."""

    def run(function):
        def both(*arguments):
            out, back = jax.vjp(function, *arguments)
            leaves, tree = jax.tree.flatten(out)
            draw = draws(7)
            return out, back(jax.tree.unflatten(tree, [draw(*x.shape) for x in leaves]))

        return quick_jit(both)(*arguments)

    for got, want in zip(*map(jax.tree.leaves, (run(kernel), run(op))), strict=True):
        scale = max(float(jnp.abs(want).max()), 1e-6)
        assert float(jnp.abs(got - want).max()) <= tolerance * scale, (got.shape, scale)


@pytest.mark.parametrize("cell", ["rwkv4", "rwkv7", "mamba2"])
def test_cells_of_kernels_keep_every_promise(cell):
    configs = {
        "rwkv4": RWKV4Config(32, chunk_size=16, kernel="pallas"),
        "rwkv7": RWKV7Config(32, head_size=16, chunk_size=16, kernel="pallas"),
        "mamba2": Mamba2Config(32, state_size=8, head_size=16, chunk_size=16, kernel="pallas"),
    }
    check_cell(cell, configs[cell])


@pytest.mark.parametrize("given", [False, True], ids=["", "resets"])
def test_wkv4_over_blocks_of_rows_width_and_time(given):
    """9 rows are two blocks of 8, 640 channels two of 512, 37 tokens two of 32."""
    draw = draws()
    rows = 9 if given else BATCH
    state = WKV4State(draw(rows, 640), np.exp(draw(rows, 640)), draw(rows, 640))
    tokens = draw(rows, 37, 640), draw(rows, 37, 640), np.exp(draw(640)), draw(640)
    reset = np.random.default_rng(0).random((rows, 37)) < 0.1 if given else None
    whole = functools.partial(wkv4_chunked, reset=reset, chunk_size=64)

    def op(*arguments):
        """The exponent of the state is a point of reference: that of the sums is what counts."""
        state, y = whole(*arguments)
        return state.p, state.q, y

    def kernel(*arguments):
        state, y = wkv4_kernel(*arguments, reset)
        return state.p, state.q, y

    agree(kernel, op, (state, *tokens))


@pytest.mark.parametrize(
    ("heads", "head", "dtype"), [(5, 64, "float32"), (6, 4, "float32"), (6, 4, "bfloat16")]
)
def test_ssd_in_blocks_and_packs_of_heads(monkeypatch, heads, head, dtype):
    """5 heads of 64 are two blocks of 4, in packs of two, most of the second padding."""
    monkeypatch.setattr(ssd_kernel_module, "WIDTH", 16)  # 256 channels at chunk and state of 8
    draw, time = draws(), 21
    x, delta = draw(BATCH, time, heads * head), np.exp(2.0 * draw(BATCH, time, heads) - 2.0)
    state, b, c = draw(BATCH, 8, heads * head), draw(BATCH, time, 8), draw(BATCH, time, 8)
    reset, a, d = resets(time), -np.exp(draw(heads)), draw(heads)

    forms = (ssd_by(form, heads, reset, 8, dtype) for form in ("kernel", "op"))
    agree(*forms, (state, x, delta, a, b, c, d))


def ssd_by(form, heads, reset, chunk_size, dtype="float32"):
    """ssd_kernel, or ssd_chunked with as much of x in y as the kernel puts there."""
    options = {"chunk_size": chunk_size, "dtype": dtype}

    def op(state, x, delta, a, b, c, d):
        split = x.reshape(*x.shape[:2], heads, -1)
        arguments = state[:, None], split, delta, a, b[:, :, None], c[:, :, None], reset
        state, y = ssd_chunked(*arguments, **options)
        return state[:, 0], (y + d[None, None, :, None] * split).reshape(x.shape)

    return functools.partial(ssd_kernel, reset=reset, **options) if form == "kernel" else op


def mixed(recur, tokens, shared, head_sum):
    """As RWKV-7 does: a unit direction that is removed, a bonus, a gate."""
    r, log_w, k, v, gate = tokens
    unit = k * jax.lax.rsqrt(head_sum(k * k) + 1e-6)
    state, y = recur(r, log_w, k, v, -unit, unit * 0.5)
    return state, (y + head_sum(r * k * shared) * v) * gate


def dplr_arguments(time, heads, head):
    draw = draws()
    r, k, v, gate = (draw(BATCH, time, heads * head) for _ in range(4))
    log_w = -0.6 / (1.0 + np.exp(draw(BATCH, time, heads * head)))
    return draw(BATCH, heads, head, head), r, log_w, k, v, gate, draw(heads * head)


def dplr_by(form, reset, chunk_size):
    """dplr_mixed or dplr_kernel of the arguments above."""

    def op(state, *rest):
        *tokens, scale = rest
        if form is dplr_kernel:
            return form(mixed, state, tokens, scale, reset, chunk_size=chunk_size)
        heads, head = state.shape[1:3]
        tokens = [x.reshape(*x.shape[:2], heads, head) for x in tokens]
        scale = scale.reshape(heads, head)
        state, y = form(mixed, state, tokens, scale, reset, chunk_size=chunk_size)
        return state, y.reshape(*y.shape[:2], -1)

    return op


def test_dplr_in_blocks_of_packs():
    """9 heads of 64 are 5 packs of two in two blocks of 4, the last head and packs padding."""
    time = 21
    forms = (dplr_by(form, resets(time), 8) for form in (dplr_kernel, dplr_mixed))
    agree(*forms, dplr_arguments(time, 9, 64))


def test_dplr_with_products_of_three_parts(monkeypatch):
    """As a TPU multiplies: 16 bits of each factor, over chunks of 64 and an inverse."""
    call = dplr_kernel_module.kernel_call

    def rounded(body, name, **options):
        return call(lambda *refs, exact: body(*refs, exact=False), name, **options)

    monkeypatch.setattr(dplr_kernel_module, "kernel_call", rounded)
    time = 70
    forms = (dplr_by(form, resets(time), 64) for form in (dplr_kernel, dplr_mixed))
    agree(*forms, dplr_arguments(time, 2, 16), tolerance=2e-4)


@pytest.mark.parametrize(("time", "width", "taps"), [(300, 600, 4), (2, 8, 4), (9, 8, 2)])
def test_short_conv(time, width, taps):
    """300 tokens are two blocks of 256, 600 channels two of 512, most of the second padding; 2
    tokens leave some of the state in the state.
    """
    draw = draws()
    reset = resets(time) if time > 2 else None
    arguments = draw(BATCH, taps - 1, width), draw(BATCH, time, width), draw(width, taps)

    def op(*arguments):
        state, y = short_conv(*arguments, reset)
        return state, jax.nn.silu(y)

    kernel = functools.partial(conv_silu_kernel, reset=reset)
    agree(kernel, op, (*arguments, draw(width)))


def test_extreme_decays_over_257_tokens():
    """Retention from nothing to 1 - 1e-7, from a full state, over borders of chunks."""
    draw, time = draws(), 257
    reset = resets(time)
    decay = np.exp(np.linspace(-16, 5, 24, dtype=np.float32))
    state = WKV4State(draw(BATCH, 24), np.exp(draw(BATCH, 24)), draw(BATCH, 24))
    tokens = 20.0 * draw(BATCH, time, 24), draw(BATCH, time, 24), decay, 5.0 * draw(24)

    def wkv4(form, **options):
        def run(*arguments):
            state, y = form(*arguments, reset, **options)
            return state.p, state.q, y

        return run

    agree(wkv4(wkv4_kernel), wkv4(wkv4_chunked, chunk_size=64), (state, *tokens))

    delta, a = np.exp(6.0 * draw(BATCH, time, 6)), -np.exp(3.0 * draw(6))
    x, b, c = draw(BATCH, time, 24), draw(BATCH, time, 8), draw(BATCH, time, 8)
    arguments = draw(BATCH, 8, 24), x, delta, a, b, c, draw(6)
    # The slope of a decay is the difference of large numbers, as it is in the op.
    agree(*(ssd_by(form, 6, reset, 64) for form in ("kernel", "op")), arguments, 1e-4)

    state, r, log_w, *rest = dplr_arguments(time, 2, 16)
    log_w = np.where(np.random.default_rng(0).random(log_w.shape) < 0.5, -0.6065, -1e-7)
    forms = (dplr_by(form, reset, 64) for form in (dplr_kernel, dplr_mixed))
    agree(*forms, (state, r, log_w.astype(np.float32), *rest), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["rwkv4", "rwkv7", "mamba2"])
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
    agree(layer_norm_kernel, layer_norm, wide)

    def gated(y, z, scale):
        return rms_norm(y * jax.nn.silu(z), scale, 1e-5)

    agree(lambda *each: gated_norm_kernel(*each, 1e-5, "float32"), gated, (x, z, scale))


def small_cell(name, chunk_size, **changes):
    """Of width 32, by kernels; nothing hides behind zeros."""
    sizes = {"rwkv7": {"head_size": 16}, "mamba2": {"state_size": 8, "head_size": 16}}
    config_class, cell_class = CELLS[name]
    fields = {"chunk_size": chunk_size, "kernel": "pallas", **sizes.get(name, {}), **changes}
    return shaken(cell_class(config_class(32, **fields), rngs=nnx.Rngs(0)), 0)


@pytest.mark.parametrize("name", ["rwkv4", "rwkv7", "mamba2"])
def test_what_a_document_left_behind_may_be_nan(name):
    """With a reset in the middle of a chunk: tokens before it are lost, those after it are not."""
    cell = small_cell(name, 8)
    state = cell.initial_state(BATCH)
    memory = "ssm" if name == "mamba2" else "wkv"
    nan = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), getattr(state, memory))
    reset = np.zeros((BATCH, 12), bool)
    reset[:, 3] = True
    arguments = state.replace(**{memory: nan}), draws()(BATCH, 12, 32), reset
    state, y = quick_jit(lambda cell, *each: cell(*each))(cell, *arguments)
    assert not bool(jnp.isfinite(y[:, :3]).any())
    assert bool(jnp.isfinite(y[:, 3:]).all())
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state))


def test_gradients_know_nothing_of_a_lost_document():
    """NaN in the state, a reset at the first token of all or of the second chunk: none after it."""
    draw, time = draws(), 12
    x, b, c = draw(BATCH, time, 32), draw(BATCH, time, 8), draw(BATCH, time, 8)
    delta, a, d = np.exp(draw(BATCH, time, 2)), -np.exp(draw(2)), draw(2)
    state = np.full((BATCH, 8, 32), np.nan, np.float32)

    def loss(c, reset):
        last, y = ssd_kernel(state, x, delta, a, b, c, d, reset, chunk_size=8)
        return jnp.sum(jnp.where(jnp.isfinite(y), y, 0.0)) + jnp.sum(last)

    for place in (0, 8):
        reset = np.zeros((BATCH, time), bool)
        reset[:, place] = True
        gradient = quick_jit(jax.grad(loss))(c, reset)
        assert bool(jnp.isfinite(gradient[:, place:]).all()), place


def test_mamba2_writes_as_much_as_it_is_told():
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
def test_products_of_two_parts_keep_16_bits(over):
    draw = draws()
    shape = {0: (24, 16), 1: (16, 24)}  # the axis of 24 is summed over
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


@pytest.mark.parametrize("side", ["left", "right"])
def test_three_parts_are_float32(side):
    draw = draws()
    choice = np.float32(np.tri(12))
    x = draw(12, 12) * np.float32(1e3)

    def run(x):
        out, back = jax.vjp(functools.partial(select_matmul, False, 3, side, choice), x)
        return out, *back(out)

    out, d_x = jax.jit(run)(x)
    wide, exact = choice.astype(np.float64), np.asarray(x, np.float64)
    want = wide @ exact if side == "left" else exact @ wide
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
    back = wide.T @ want if side == "left" else want @ wide.T
    np.testing.assert_allclose(d_x, back, rtol=1e-5, atol=1e-6 * np.abs(back).max())


def test_interleave_is_one_after_the_other():
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


def test_what_kernels_do_not_do_is_refused():
    for make in (
        lambda: RWKV4Config(32, kernel="triton"),
        lambda: Mamba2Config(32, groups=2, head_size=16, kernel="pallas"),
        lambda: Mamba2Config(32, conv_size=9, kernel="pallas"),
    ):
        with pytest.raises(UserError, match="kernel"):
            make()

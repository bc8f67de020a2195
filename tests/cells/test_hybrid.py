"""GroundThink's mixer: weighted sum, initial retention, state norms, write gate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.cells.hybrid import HybridCell, HybridConfig
from jaxmodels.cells.layers import assign_rates
from jaxmodels.cells.rwkv6 import RWKV6Cell, RWKV6Config
from jaxmodels.errors import UserError
from jaxmodels.testing.lab import quick_jit, shaken

BATCH, TIME, C = 2, 11, 32
XS = jnp.asarray(np.random.default_rng(0).standard_normal((BATCH, TIME, C)), jnp.float32)


def make(shake=True, **changes):
    cell = HybridCell(HybridConfig(C, **{"head_size": 8} | changes), rngs=nnx.Rngs(0))
    return shaken(cell, 0) if shake else cell


call = quick_jit(lambda cell, *arguments: cell(*arguments))
outputs = quick_jit(lambda cell, *arguments: cell.outputs(*arguments))


def rms_norm(x, scale):
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * np.asarray(scale)


def test_output_is_weighted_sum_of_paths():
    """G-04: 0.6 R + 0.4 M, of the paths' normalized outputs."""
    cell = make()
    state = cell.initial_state(BATCH)
    _, outs = outputs(cell, state, XS)
    _, ys = call(cell, state, XS)
    r = rms_norm(outs["rwkv"], cell.rwkv.norm.scale[...])
    m = rms_norm(outs["mamba"], cell.mamba.norm.scale[...])
    np.testing.assert_allclose(ys, 0.6 * r + 0.4 * m, atol=1e-5)
    _, alone = call(cell.rwkv.cell, state.rwkv, XS)
    np.testing.assert_allclose(outs["rwkv"], alone, atol=1e-6)


def test_learned_alpha_value_and_gradient():
    """G-05: d y / d alpha = R - M."""
    cell = make(learn_alpha=True)
    state = cell.initial_state(BATCH)
    assert float(cell.mix_weight()) != 0.6  # shaken
    assert float(make(shake=False, learn_alpha=True).mix_weight()) == np.float32(0.6)
    _, outs = outputs(cell, state, XS)
    grad = quick_jit(jax.grad(lambda cell: cell(state, XS)[1].sum()))(cell)
    r = rms_norm(outs["rwkv"], cell.rwkv.norm.scale[...])
    m = rms_norm(outs["mamba"], cell.mamba.norm.scale[...])
    np.testing.assert_allclose(grad.alpha[...], (r - m).sum(), rtol=1e-4)
    assert make().alpha is None


@pytest.mark.parametrize("rwkv", (6, 7))
@pytest.mark.parametrize("mamba", (1, 2))
def test_identity_init_retains_0_9999_in_both_paths(rwkv, mamba):
    """G-13, measured on data."""
    cell = make(shake=False, rwkv_version=rwkv, mamba_version=mamba)
    state = cell.initial_state(BATCH)
    for path, before in ((cell.rwkv, state.rwkv), (cell.mamba, state.mamba)):
        retention = path.cell.retention(before, jnp.asarray(3.0 * XS))
        if path is cell.rwkv and rwkv == 7:  # a key channel loses more where the token's key points
            assert retention.min() > 0.9998
            retention = np.sqrt(np.square(retention).mean(-1))
        np.testing.assert_allclose(retention, 0.9999, atol=1e-5)


@pytest.mark.parametrize("rwkv", (6, 7))
@pytest.mark.parametrize("init", ("identity", "groups"))
def test_initial_state_norm_decays_as_promised(rwkv, init):
    """G-13, of the whole matrix state: RWKV-7 also removes what stood at a key, not only decays."""
    cell = make(shake=False, kind="rwkv", rwkv_version=rwkv, init=init).rwkv.cell
    tokens, fresh = 64, cell.initial_state(BATCH)
    rng = np.random.default_rng(1)
    xs = jnp.asarray(rng.standard_normal((BATCH, tokens, C)), jnp.float32)
    wkv = jnp.asarray(rng.standard_normal(fresh.wkv.shape), jnp.float32)
    with_it, without = (call(cell, fresh.replace(wkv=x), xs)[0].wkv for x in (wkv, fresh.wkv))
    left = np.sqrt(np.square(with_it - without).sum((1, 3)))  # by key channel
    start = np.sqrt(np.square(wkv).sum((1, 3)))
    if init == "identity":
        np.testing.assert_allclose(left / start, 0.9999**tokens, rtol=2e-3)
    else:
        rates = np.reshape(assign_rates(((0.1, 0.999), (0.9, 0.9)), C), (C // 8, 8))
        kept = np.sqrt(np.square(with_it - without).sum(3)) / np.sqrt(np.square(wkv).sum(3))
        slow = kept[:, rates > 0.99]
        np.testing.assert_allclose(slow, 0.999**tokens, rtol=0.05)
        assert kept[:, rates < 0.99].max() < 0.02  # they take up a little of the slow ones
    # What is read is written: a token changes the state by its key and value.
    after = call(cell, fresh, xs[:, :2])[0].wkv
    assert np.linalg.norm(after) > 0.01


def test_retention_of_rwkv7_counts_what_is_removed():
    """The part of a unit of state in each key channel that one token without a write leaves."""
    cell = make(kind="rwkv", rwkv_version=7, init="spread").rwkv.cell
    state, x = cell.initial_state(1), XS[:1, :1]
    heads, size = state.wkv.shape[1:3]
    unit = jnp.broadcast_to(jnp.eye(size)[None, None], state.wkv.shape)
    empty = call(cell, state, x)[0].wkv
    left = np.asarray(call(cell, state.replace(wkv=unit), x)[0].wkv - empty)
    # Columns of the state are independent: column j began as the unit of key channel j.
    want = np.sqrt(np.square(left).sum(2))
    np.testing.assert_allclose(cell.retention(state, x)[0, 0], want[0], atol=1e-5)
    assert want.max() < 1.0 and heads * size == C


def test_as_written_identity_init_retains_a_third():
    """The original assigns log(0.9999) to the raw decay."""
    cell = RWKV6Cell(RWKV6Config(C, head_size=8), rngs=nnx.Rngs(0))
    cell.decay[...] = jnp.full((C,), np.log(0.9999))
    retention = cell.retention(cell.initial_state(BATCH), jnp.asarray(XS))
    np.testing.assert_allclose(retention, np.exp(-0.9999), atol=1e-4)


def test_decay_groups():
    """G-15: a tenth of the channels at 0.999, the rest at 0.9."""
    cell = make(shake=False, init="groups")
    state = cell.initial_state(BATCH)
    slow = cell.rwkv.cell.retention(state.rwkv, jnp.asarray(XS)).reshape(-1, C)
    np.testing.assert_allclose(slow[:, :3], 0.999, atol=1e-5)
    np.testing.assert_allclose(slow[:, 3:], 0.9, atol=1e-5)
    heads = cell.mamba.cell.retention(state.mamba, jnp.asarray(XS)).reshape(-1, 8)
    np.testing.assert_allclose(heads, [[0.999] + [0.9] * 7] * len(heads), atol=1e-5)
    assert assign_rates(((0.01, 0.5), (0.99, 0.25)), 4).tolist() == [0.5, 0.25, 0.25, 0.25]
    with pytest.raises(UserError, match=r"0\.5452"):
        make(rwkv_version=7, init="groups", decay_groups=((1.0, 0.5),))


def test_state_dim_sets_mamba_state_size():
    """G-10: unused in the original."""
    shapes = [make(state_dim=n).initial_state(BATCH).mamba.ssm.shape for n in (16, 32)]
    assert shapes == [(BATCH, 1, 16, 2 * C), (BATCH, 1, 32, 2 * C)]


def test_path_widths():
    """G-07."""
    cell = make(rwkv_width=16, mamba_width=8, state_groups=1)
    state, ys = call(cell, cell.initial_state(BATCH), XS)
    assert state.rwkv.wkv.shape == (BATCH, 2, 8, 8) and state.mamba.ssm.shape[-1] == 16
    assert ys.shape == XS.shape


def closed(cell):
    """Set the write gate to 0 for every token and return the cell."""
    cell.write_weight[...] = jnp.zeros((C,))
    cell.write_bias[...] = jnp.float32(-3.0)
    return cell


@pytest.mark.parametrize("rwkv", (6, 7))
@pytest.mark.parametrize("mamba", (1, 2))
def test_closed_write_gate_keeps_states(rwkv, mamba):
    """G-16: states neither decay nor change, except for the token shift."""
    cell = closed(make(write_gate=True, rwkv_version=rwkv, mamba_version=mamba))
    warm = jax.tree.map(lambda x: x + 0.5, cell.initial_state(BATCH))
    after, _ = call(cell, warm, XS)
    # RWKV-7 rounds a sum of three matmuls, two of them with zeros.
    np.testing.assert_allclose(after.rwkv.wkv, warm.rwkv.wkv, rtol=1e-6 if rwkv == 7 else 0.0)
    np.testing.assert_array_equal(after.mamba.ssm, warm.mamba.ssm)
    np.testing.assert_array_equal(cell.write(jnp.asarray(XS)), np.zeros((BATCH, TIME)))
    assert np.abs(after.rwkv.shift - warm.rwkv.shift).max() > 0.1


def test_open_write_gate_equals_no_gate():
    gated, plain = make(write_gate=True), make()
    gated.write_weight[...] = jnp.zeros((C,))
    gated.write_bias[...] = jnp.float32(3.0)
    plain.rwkv, plain.mamba = gated.rwkv, gated.mamba
    state = plain.initial_state(BATCH)
    np.testing.assert_allclose(call(gated, state, XS)[1], call(plain, state, XS)[1], atol=1e-6)


def mean_squares(state, groups):
    rwkv = np.asarray(state.rwkv.wkv).reshape(BATCH, groups, -1)
    mamba = np.asarray(state.mamba.ssm).reshape(BATCH, -1, groups, 2 * C // groups)
    return (rwkv**2).mean(-1), (mamba**2).mean((1, 3))


@pytest.mark.parametrize("groups", (1, 4))
def test_groups_on_reading(groups):
    """G-09: what one group holds changes what is read of the others only if they are one group."""
    cell = make(state_groups=groups)
    rwkv, mamba = cell.rwkv.cell, cell.mamba.cell
    rwkv.output.kernel[...] = jnp.eye(C)
    mamba.out_proj.kernel[...] = jnp.eye(2 * C, C)  # the first two of four groups
    state, _ = call(cell, cell.initial_state(BATCH), XS)
    first_head = jnp.zeros((1, C // 8, 1, 1)).at[:, 0].set(1.0)
    first_group = jnp.zeros((1, 1, 1, 2 * C)).at[..., :16].set(1.0)
    for path, before, part, quarter in (
        (rwkv, state.rwkv.replace(wkv=jnp.ones_like(state.rwkv.wkv)), first_head, 8),
        (mamba, state.mamba.replace(ssm=jnp.ones_like(state.mamba.ssm)), first_group, 16),
    ):
        name = "wkv" if path is rwkv else "ssm"
        louder = before.replace(**{name: getattr(before, name) * (1.0 + 9.0 * part)})
        once, twice = (call(path, s, XS[:, :1])[1] for s in (before, louder))
        same = np.abs(once - twice)[..., quarter:].max() < 1e-6
        assert same == (groups == 4), (name, groups)


def test_state_norm_has_a_gain():
    cell = make(shake=False, state_norm="per_token", state_groups=4, init="spread")
    for path in (cell.rwkv, cell.mamba):
        path.gain[...] = 3.0 * jnp.ones_like(path.gain[...])
    state = cell.initial_state(BATCH)
    for t in range(3):
        state, _ = quick_jit(cell.step)(state, XS[:, t])
    for squares in mean_squares(state, 4):
        np.testing.assert_allclose(squares, 9.0, rtol=2e-2)


@pytest.mark.parametrize("groups", (1, 4))
def test_state_norm_per_token(groups):
    """G-09: unit mean square per group after every token, but not in other groupings."""
    cell = make(shake=False, state_norm="per_token", state_groups=groups, init="spread")
    state = cell.initial_state(BATCH)
    for t in range(3):
        state, _ = quick_jit(cell.step)(state, XS[:, t])
    for squares in mean_squares(state, groups):
        np.testing.assert_allclose(squares, 1.0, rtol=2e-2)
    others = mean_squares(state, 2 * groups)
    assert all(np.abs(squares - 1.0).max() > 0.05 for squares in others)


def test_state_norm_at_boundaries():
    """Every four tokens of a document, counted from a reset, equally in call and step."""
    cell = make(shake=False, state_norm="boundary", norm_every=4, state_groups=1, init="spread")
    reset = np.zeros((BATCH, TIME), bool)
    reset[1, 2] = True
    state, unit = cell.initial_state(BATCH), []
    step = quick_jit(lambda state, x: cell.step(state, x))
    fresh = cell.initial_state(BATCH)
    for t in range(8):
        state = jax.tree.map(
            lambda a, b, t=t: jnp.where(reset[:, t].reshape((-1,) + (1,) * (a.ndim - 1)), a, b),
            fresh,
            state,
        )
        state, _ = step(state, XS[:, t])
        unit.append(np.abs(mean_squares(state, 1)[0][:, 0] - 1.0) < 2e-2)
    assert np.flatnonzero(np.array(unit)[:, 0]).tolist() == [3, 7]
    assert np.flatnonzero(np.array(unit)[:, 1]).tolist() == [5]
    after, _ = call(cell, fresh, XS[:, :8], reset[:, :8])
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "both"}, "kind must be one of hybrid, rwkv, mamba"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"state_groups": 5}, "norm_groups=5 must divide width=32"),
        (
            {"rwkv_version": 7, "state_groups": 1},
            "state_groups=1: on reading, RWKV-7 normalizes each of its 4 heads",
        ),
        (
            {"mamba_version": 1, "state_groups": 1},
            "state_groups=1: on reading, Mamba-1 normalizes nothing",
        ),
        ({"rwkv_version": 5}, "rwkv_version must be 6 or 7"),
        ({"decay_groups": ((1.0, 1.5),)}, "decay_groups must be pairs"),
        ({"state_norm": "sometimes"}, "state_norm must be one of read, boundary, per_token"),
    ],
)
def test_invalid_configs_are_rejected(changes, words):
    with pytest.raises(UserError, match=words):
        HybridConfig(C, **{"head_size": 8} | changes)

"""Requirements of the unified cell, docs/systems.md P-01 to P-10 and P-21 to P-24."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmodels
from jaxmodels.cells.unified import UnifiedCell, UnifiedConfig, UnifiedState
from jaxmodels.errors import UserError
from jaxmodels.testing.lab import names, quick_jit

BATCH, TIME, WIDTH = 3, 21, 12
SIZES = {"hidden_size": 16, "symbol_slots": 5, "role_slots": 3, "relation_size": 8}


@functools.cache
def make(**changes):
    config = UnifiedConfig(WIDTH, **dict(SIZES, **changes))
    return quick_jit(lambda: UnifiedCell(config, rngs=nnx.Rngs(0)))()


def tokens(time=TIME, batch=BATCH, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, time, WIDTH), np.float32)


@functools.cache
def warm(**changes):
    """A state that has read 9 tokens."""
    cell = make(**changes)
    return quick_jit(cell.scan)(cell.initial_state(BATCH), tokens(9, seed=1))[0]


def relative(got, want):
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    pairs = zip(got, want, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)) for a, b in pairs)


@pytest.mark.parametrize("core", ["ema", "rwkv4"])
def test_p01_to_p05_shapes(core):
    cell = make(core=core)
    state, h = quick_jit(cell.step)(cell.initial_state(BATCH), tokens()[:, 0])
    assert h.shape == (BATCH, 16)
    for s in (cell.initial_state(BATCH), state):
        assert isinstance(s, UnifiedState)
        assert s.h.shape == s.time_state.shape == (BATCH, 16)
        assert s.relations.shape == (BATCH, 5, 3, 8)
        assert s.causal_mask.shape == (BATCH, 5, 5)
        assert [a.shape for a in s.abstractions] == [(BATCH, 16), (BATCH, 8), (BATCH, 4)]
        assert (s.wkv is None) if core == "ema" else (s.wkv.shape == (BATCH, 3, 16))


def test_p02_time_state_follows_h():
    cell = make()
    run = quick_jit(cell.step)
    first, _ = run(cell.initial_state(BATCH), tokens()[:, 0])
    second, _ = run(first, tokens()[:, 1])
    assert not first.time_state.any()  # h was zero before the first token
    decay = jax.nn.sigmoid(cell.rwkv.decay_logit[...])[None]
    np.testing.assert_allclose(second.time_state, (1 - decay) * first.h, rtol=1e-6)


@pytest.mark.parametrize("gating", ["full", "lower_triangular", "diagonal"])
def test_p04_rows_of_the_mask_sum_to_one(gating):
    cell = make(gating=gating)
    xs = 3.0 * tokens(60)
    _, seen = quick_jit(cell.unroll)(cell.initial_state(BATCH), xs)
    assert (seen.causal_mask >= 0).all()
    np.testing.assert_allclose(seen.causal_mask.sum(-1), 1.0, atol=1e-6)
    above = np.triu(np.ones((5, 5), bool), 1)
    assert (seen.causal_mask[..., above] == 0).all() == (gating == "lower_triangular")


def test_p05_first_abstraction_has_width_of_h():
    assert UnifiedConfig(64).abstraction_sizes == (64, 32, 16)
    with pytest.raises(UserError, match=r"abstraction_sizes .*hidden_size=16, got \(8, 4\)"):
        UnifiedConfig(WIDTH, hidden_size=16, abstraction_sizes=(8, 4))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("symbol_slots", 0),
        ("width", 2.5),
        ("activation", "tanh"),
        ("core", "rwkv"),
        ("gating", "none"),
        ("pooling", "max"),
        ("dtype", "float16"),
        ("dropout", 1.0),
        ("remat_chunk", -1),
    ],
)
def test_config_errors_name_the_field(field, value):
    with pytest.raises(UserError, match=f"{field} must") as error:
        UnifiedConfig(**dict({"width": WIDTH}, **{field: value}))
    assert str(error.value).count("\n") == 0


def test_p06_gradient_reaches_decay_and_mix():
    block = make().rwkv
    state = warm()

    def loss(block):
        h_mid, time_state, _ = block(tokens()[:, 0], state.h, state.time_state)
        return (h_mid**2).sum(), time_state

    gradient, time_state = quick_jit(jax.grad(loss, has_aux=True))(block)
    assert time_state.shape == state.h.shape
    assert (gradient.decay_logit[...] != 0).all() and (gradient.mix_logit[...] != 0).all()


@pytest.mark.parametrize(("logit", "keeps"), [(-200.0, True), (200.0, False)])
def test_p07_mixing_ratios_zero_and_one(logit, keeps):
    block, state = nnx.clone(make().bind), warm()
    block.relation_logit[...] = block.mask_logit[...] = jnp.float32(logit)
    h_mid = tokens(1, seed=2)[:, 0, :1] * jnp.ones((1, 16))
    relations, mask = block(h_mid, state.relations, state.causal_mask)
    elsewhere, other_mask = block(h_mid, 5.0 - state.relations, state.causal_mask[::-1])
    if keeps:
        assert (relations == state.relations).all() and (mask == state.causal_mask).all()
    else:  # the old state has no say
        assert (relations == elsewhere).all() and (mask == other_mask).all()
        np.testing.assert_allclose(relations.mean(-1), 0.0, atol=1e-6)  # fresh from a LayerNorm
        assert (relations != state.relations).all()


def off_diagonal(gating):
    """Return the change of h if slot 1 reads more of slot 3 and less of itself, or of slot 2."""
    reducer, state = make(gating=gating).reduce, warm()
    h_mid = state.h

    def h_after(change):
        mask = state.causal_mask.at[:, 1, 3].add(0.1).at[:, 1, change].add(-0.1)
        return reducer(h_mid, state.relations, mask, state.abstractions)[0]

    h = reducer(h_mid, state.relations, state.causal_mask, state.abstractions)[0]
    return [float(jnp.abs(h_after(change) - h).max()) for change in (2, 1)]


def test_p08_off_diagonal_entries_change_h():
    assert min(off_diagonal("full")) > 1e-4


def test_p08_diagonal_gating_ignores_off_diagonal_entries():
    """Z-09: the original reads the diagonal only."""
    among_others, from_itself = off_diagonal("diagonal")
    assert among_others == 0.0 and from_itself > 1e-4


def test_p08_attention_pooling_tells_who_reads_what():
    """A mean over readers sees the mask's column means alone: alike if each slot reads itself."""
    means = warm().relations.mean(2)
    masks = [jnp.eye(5)[None], jnp.full((1, 5, 5), 0.2)]
    plain, pooled = make().reduce, make(pooling="attention").reduce
    contexts = [plain.context(means, mask) for mask in masks]
    np.testing.assert_allclose(*contexts, rtol=1e-4, atol=1e-6)
    seen = [pooled.context(means, mask, 3.0 * means[:, 0]) for mask in masks]
    assert jnp.abs(seen[0] - seen[1]).max() > 1e-2
    np.testing.assert_allclose(seen[1], contexts[1], rtol=1e-4, atol=1e-6)  # all have read the same
    with pytest.raises(UserError, match="pooling must be 'mean' with gating='diagonal'"):
        make(pooling="attention", gating="diagonal")


def test_p08_context_is_invariant_to_slot_order():
    """Permuting slots with the rows and columns of the mask leaves the context as it is."""
    state, order = warm(), np.array([3, 0, 4, 1, 2])
    means = state.relations.mean(2)
    for fields in ({"gating": "full"}, {"gating": "diagonal"}, {"pooling": "attention"}):
        reducer = make(**fields).reduce
        query = (means.sum(1),) if "pooling" in fields else ()
        context = reducer.context(means, state.causal_mask, *query)
        moved = reducer.context(means[:, order], state.causal_mask[:, order][:, :, order], *query)
        np.testing.assert_allclose(moved, context, rtol=1e-5, atol=1e-7)
        half = reducer.context(means[:, order], state.causal_mask, *query)
        assert jnp.abs(half - context).max() > 1e-3


@pytest.mark.parametrize(("slots", "diagonal"), [(8, 0.280), (16, 0.153)])
def test_double_softmax_of_the_identity_is_nearly_uniform(slots, diagonal):
    """Z-09: as written the identity goes through a second softmax."""
    eye, ones = jnp.eye(slots)[None], jnp.ones((1, slots, 8))
    trace = [
        float(make(gating="diagonal", double_softmax=double).reduce.context(ones, eye)[0, 0])
        for double in (False, True)
    ]
    assert trace[0] == slots
    assert abs(trace[1] / slots - diagonal) < 5e-4


def test_p09_fused_cell_equals_blocks():
    cell, state, xs = make(), warm(), tokens()

    def blockwise(state, xs):
        ys = []
        for x in xs.swapaxes(0, 1):
            h_mid, time_state, _ = cell.rwkv(x, state.h, state.time_state)
            relations, mask = cell.bind(h_mid, state.relations, state.causal_mask)
            h, stack, _ = cell.reduce(h_mid, relations, mask, state.abstractions)
            state = UnifiedState(h, time_state, relations, mask, stack, None)
            ys.append(h)
        return state, jnp.stack(ys, 1)

    got, want = (quick_jit(run)(state, xs[:, :5]) for run in (cell.__call__, blockwise))
    assert relative(got, want) < 1e-5  # float32 rounding over 5 tokens


@pytest.mark.parametrize(("jit", "chunk"), [(jax.jit, 0), (quick_jit, 8)], ids=["jit", "remat"])
def test_p10_p24_debug_equals_production_path(jit, chunk):
    """Bit for bit, but for the order in which the last relation tensor is summed up.

    With remat, XLA may fuse the loop that also returns the intermediates differently: rounding.
    """
    plain, debug = make(remat_chunk=chunk), make(remat_chunk=chunk, debug_mode=True)
    reset = np.random.default_rng(3).random((BATCH, TIME)) < 0.1
    arguments = (warm(), tokens(), reset)
    state, seen = jit(lambda cell, *args: cell.unroll(*args))(plain, *arguments)
    state2, seen2, inner = jit(lambda cell, *args: cell.debug(*args))(debug, *arguments)
    assert relative(state.relations, state2.relations) < 1e-6
    state = state.replace(relations=state2.relations)
    seen = seen.replace(relations=seen2.relations)
    if chunk:
        assert relative((state, seen), (state2, seen2)) < 1e-6
    else:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), (state, seen), (state2, seen2))
        assert all(jax.tree.leaves(same)), same
    assert seen2.relations.shape == (BATCH, TIME, 5, 3, 8)
    assert all(value.shape[:2] == (BATCH, TIME) for value in inner.values())
    assert {"projected", "h_mid", "context", "mask_logits", "gates0", "update2"} <= set(inner)
    with pytest.raises(UserError, match="debug_mode=True"):
        plain.debug(*arguments)


def test_the_decay_of_wkv_is_exact_at_large_exponents():
    """core="rwkv4": at o = 60, a float32 is 4e-6 apart, 4 % of a decay of 1e-4 (`ops/wkv4`)."""
    cell = make(core="rwkv4").rwkv
    cell.time_decay[...] = jnp.full_like(cell.time_decay[...], np.log(1e-4))
    size = cell.config.hidden_size
    wkv = jnp.broadcast_to(jnp.float32([1.0, 1.0, 60.0])[None, :, None], (1, 3, size))
    # key, value and receptance of a token that writes nothing
    nothing = jnp.concatenate([jnp.full((1, size), -100.0), jnp.zeros((1, 2 * size))], 1)
    zeros = jnp.zeros((1, size))
    run = quick_jit(
        lambda wkv: jax.lax.scan(
            lambda wkv, _: (cell.gate(nothing, zeros, zeros, wkv)[2], None), wkv, None, 256
        )[0]
    )
    p, _, o = np.float64(run(wkv)[0])
    np.testing.assert_allclose(np.log(p) + o, 60.0 - 256e-4, atol=3e-5)


def test_p21_initial_state():
    cell = make(core="rwkv4")
    device = jax.devices()[3]
    state = cell.initial_state(BATCH, device)
    assert (np.asarray(state.causal_mask) == np.eye(5)).all()
    assert not any(np.any(x) for x in (state.h, state.time_state, state.relations))
    assert not any(np.any(a) for a in state.abstractions)
    assert all(x.devices() == {device} for x in jax.tree.leaves(state))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state))


@functools.cache
def backward(chunk, time):
    """Gradients, and bytes of temporary memory.

    Large inputs and documents of 5 tokens: an untrained cell doubles a difference every few
    tokens, so that over 1024 of them the last bit of one decides what the gradient is.
    """
    reset = np.zeros((BATCH, time), bool)
    reset[:, 5::5] = True

    def loss(cell, state, xs):
        state, ys = cell(state, xs, reset)
        return (ys**3).sum() + sum((x**2).sum() for x in jax.tree.leaves(state))

    sizes = {"hidden_size": 64, "relation_size": 32, "abstraction_sizes": (64, 32)}
    cell, state = make(remat_chunk=chunk, **sizes), warm(**sizes)
    arguments = (cell, state, 5.0 * tokens(time))
    compiled = quick_jit(jax.grad(loss, (0, 1, 2))).lower(*arguments).compile()
    gradient = jax.tree.leaves(compiled(*arguments))
    return gradient, compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("time", [pytest.param(21, marks=pytest.mark.slow), 1024])
def test_p23_remat_keeps_gradients(time):
    """To 1e-6 of the gradient's length: sums over tokens, in two orders."""
    want, _ = backward(0, time)
    got, _ = backward(32 if time == 1024 else 8, time)
    length = np.sqrt(sum(np.square(w).sum() for w in want))
    off = np.sqrt(sum(np.square(g - w).sum() for g, w in zip(got, want, strict=True)))
    print(f"T={time}: gradient of length {length:.2g}, off by {off / length:.1e}")
    assert off <= 1e-6 * length


def test_p23_remat_needs_a_quarter_of_the_memory():
    (_, plain), (_, remat) = backward(0, 1024), backward(32, 1024)
    print(f"temporary memory at T=1024: {plain} bytes, with remat {remat}: {remat / plain:.3f}")
    assert remat <= plain / 4


@pytest.mark.parametrize("remat_chunk", [0, 8])
def test_relations_every_n_tokens(remat_chunk):
    """The tensor computed after the loop equals the one carried by steps."""
    cell, state, xs = make(remat_chunk=remat_chunk), warm(), tokens()
    reset = np.zeros((BATCH, TIME), bool)
    reset[0, 5] = reset[1, [8, 9]] = True
    last, seen = quick_jit(lambda *args: cell.unroll(*args, relations_every=4))(state, xs, reset)

    def step(state, x, key):
        state, _ = cell.step(state, x)
        return state, state.relations

    stepped, relations = quick_jit(lambda *args: cell.scan(*args, step=step))(state, xs, reset)
    assert relative(seen.relations, relations[:, 3::4]) < 1e-5
    assert relative(last.relations, stepped.relations) < 1e-5
    assert jax.eval_shape(cell.unroll, state, xs)[1].relations is None
    if remat_chunk:
        with pytest.raises(UserError, match=r"remat_chunk=8 .*relations_every=3"):
            cell.unroll(state, xs, relations_every=3)


def test_dropout_needs_a_key():
    cell, state, xs = make(dropout=0.5), warm(), tokens()
    run = quick_jit(lambda cell, key: cell(state, xs, None, key))
    keys = jax.random.split(jax.random.key(0))
    plain = run(make(), None)
    assert relative(run(cell, None), plain) == 0.0
    assert relative(run(make(), keys[0]), plain) < 1e-5
    once, again, other = (run(cell, key) for key in (keys[0], keys[0], keys[1]))
    assert relative(once, again) == 0.0
    assert min(relative(once, other), relative(once, plain)) > 0.1


def test_initial_parameters():
    """Statistics, and the number of parameters of each block in the source."""
    cell = quick_jit(
        lambda: UnifiedCell(
            UnifiedConfig(
                128,
                256,
                relation_size=64,
                abstraction_sizes=(256, 128, 64),
                topdown=False,
                input_gain=1.0,
            ),
            rngs=nnx.Rngs(1),
        )
    )()
    blocks = (cell.rwkv, cell.bind, cell.reduce)
    counts = [jaxmodels.count_parameters(block) for block in blocks]
    assert counts == [296_960, 1_118_626, 840_576]
    for logit, mean in ((cell.rwkv.decay_logit, -1.0), (cell.rwkv.mix_logit, 0.0)):
        noise = np.asarray(logit[...]) - mean
        assert abs(noise.mean()) < 0.002 and 0.008 < noise.std() < 0.012  # 256 draws of 0.01
    for name, leaf in zip(names(cell), jax.tree.leaves(cell), strict=True):
        if name.endswith(".kernel"):
            bound = np.sqrt(6 / sum(leaf.shape))
            assert 0.98 * bound < np.abs(leaf).max() <= bound
            assert abs(leaf.std() * np.sqrt(3) / bound - 1) < 0.02
        elif name.endswith((".bias", "relation_logit", "mask_logit")):
            assert not leaf.any()
        elif name.endswith(".scale"):
            assert (leaf == 1).all()


def test_input_gain():
    """Only the token's way into h starts louder."""
    plain, loud = make(input_gain=1.0), make(input_gain=3.0)
    project = loud.rwkv.project.kernel[...] / plain.rwkv.project.kernel[...]
    np.testing.assert_allclose(project, 3.0, rtol=1e-6)
    first = loud.reduce.layers[0].update.kernel[...] / plain.reduce.layers[0].update.kernel[...]
    np.testing.assert_allclose(first[:16], 9.0, rtol=1e-6)
    assert (first[16:] == 1.0).all()
    assert (loud.bind.bind.kernel[...] == plain.bind.bind.kernel[...]).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"dtype": "bfloat16"}, marks=pytest.mark.slow),
        pytest.param({"core": "rwkv4"}, marks=pytest.mark.slow),
    ],
    ids=["float32", "bfloat16", "rwkv4"],
)
def test_16k_tokens_stay_finite(changes):
    """Values and gradients, on inputs ten times as large as in training."""
    cell, xs = make(remat_chunk=256, **changes), 10.0 * tokens(16384, 1)

    def loss(cell, xs):
        state, ys = cell(cell.initial_state(1), xs)
        return (ys[:, -64:] ** 2).mean(), (state, ys)

    gradient, (state, ys) = quick_jit(jax.grad(loss, has_aux=True))(cell, xs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((gradient, state, ys)))
    assert np.abs(ys[:, 8192:]).mean() > 0.1

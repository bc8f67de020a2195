"""Rows of different lengths: what the promises of `jaxmodels/testing/ragged.py` leave out, and that
they notice what breaks."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels import arguments
from jaxmodels.cells import CELLS, attention, base, gated_delta, mamba1, rwkv4, rwkv6
from jaxmodels.errors import UserError
from jaxmodels.ragged import hold_after, to_front
from jaxmodels.testing import cells_in_file, check_cell
from jaxmodels.testing.lab import compare, gradients, quick_jit, same_bits, shaken
from jaxmodels.testing.ragged import layouts

WIDTH, TIME = 16, 9
LENGTHS = np.array([TIME, 0, 5], np.int32)
LEAKY = pathlib.Path(__file__).parent / "leaky_cell.py"


def cell_of(name, **fields):
    config, kind = CELLS[name]
    return shaken(kind(config(width=WIDTH, **fields), rngs=nnx.Rngs(0)), 0)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SMALL = {"symbol_slots": 2, "role_slots": 2, "relation_size": 4, "abstraction_sizes": (16, 8)}
SPECIAL = {
    "rwkv4 in Pallas": ("rwkv4", {"kernel": "pallas"}),
    "rwkv4 in chunks": ("rwkv4", {"chunk_size": 2}),
    "rwkv7 with values": ("rwkv7", {"value_residual": True, "chunk_size": 4, "head_size": 8}),
    "rwkv6 in Pallas": ("rwkv6", {"kernel": "pallas", "chunk_size": 8, "head_size": 8}),
    "rwkv7 in Pallas": ("rwkv7", {"kernel": "pallas", "chunk_size": 4, "head_size": 8}),
    "gated_delta in Pallas": (
        "gated_delta",
        {"kernel": "pallas", "chunk_size": 4, "head_size": 8},
    ),
    "mamba1 in Pallas": ("mamba1", {"kernel": "pallas", "state_size": 4}),
    "mamba2 in Pallas": ("mamba2", {"kernel": "pallas", "chunk_size": 4, "head_size": 8}),
    "a ring below a row": ("attention", {"window": 4, "head_size": 8, "chunk_size": 4}),
    "unified, rwkv4": ("unified", {"core": "rwkv4", "remat_chunk": 4, **SMALL}),
    "state norm": ("grounded_gla", {"state_norm": "boundary", "norm_every": 3, "head_size": 8}),
}


@pytest.mark.parametrize("case", SPECIAL)
def test_the_fast_form_holds_as_the_definition_does(case):
    name, fields = SPECIAL[case]
    cell = cell_of(name, **fields)
    rows, layout = len(LENGTHS), layouts(LENGTHS, TIME)["holes"]
    xs, values = noise(rows, TIME, WIDTH), noise(rows, TIME, WIDTH, seed=1)
    reset, d_ys = noise(rows, TIME) > 1.0, noise(rows, TIME, WIDTH, seed=2)
    more, junk = {}, {}
    if fields.get("value_residual"):
        more, junk = {"v_first": values}, {"v_first": layout.spread(values, np.nan)}
    state, _ = cell.scan(cell.initial_state(rows), xs[:, ::-1], **more)  # not the initial one
    d_state = jax.tree.map(lambda x: noise(*x.shape, seed=3), state)
    xs, reset = layout.spread(xs, np.nan), layout.spread(reset, True)
    d_ys = layout.spread(d_ys, np.nan)

    def run(form, cell, state, xs):
        def forward(cell, state, xs):
            run = cell.scan if form == "scan" else cell
            return run(state, xs, reset, hold=layout.hold, **junk)

        return gradients(forward)(cell, state, xs, (d_state, d_ys))

    run = quick_jit(run, static_argnums=0)
    want, got = (jax.device_get(run(form, cell, state, xs)) for form in ("scan", "call"))
    compare([("values", got[0], want[0])], 1e-4)
    names = ("parameters", "initial state", "inputs")
    compare(list(zip(names, got[1], want[1], strict=True)), 1e-4, 1e-3)
    assert not layout.collect(got[1][2])[1].any()
    assert same_bits(*jax.tree.map(lambda x: x[1], jax.device_get((got[0][0], state))))


def test_a_prefix_stays_within_the_tokens_of_a_row():
    cell = cell_of("attention", window=6, head_size=8)
    xs, prefix = noise(3, TIME, WIDTH), np.arange(TIME)[None] < np.array([4, 2, 3])[:, None]
    state = cell.initial_state(3)
    layout = layouts(LENGTHS, TIME)["left"]
    run = quick_jit(lambda *a, **k: cell(*a, **k))
    whole = run(state, xs, prefix=prefix)[1]
    junk = layout.spread(xs, np.nan), layout.spread(prefix, True)
    last, ys = jax.device_get(run(state, junk[0], prefix=junk[1], hold=layout.hold))
    np.testing.assert_allclose(layout.collect(ys)[2, :5], whole[2, :5], atol=1e-6)
    np.testing.assert_array_equal(last.position, LENGTHS)


def test_no_place_held_changes_nothing_and_lengths_are_a_hold():
    cell = cell_of("gru")
    xs, reset = noise(3, TIME, WIDTH), noise(3, TIME) > 1.0
    state = cell.initial_state(3)
    run = quick_jit(lambda *a, **k: cell(*a, **k))
    want, none = run(state, xs, reset), run(state, xs, reset, hold=np.zeros((3, TIME), bool))
    assert same_bits(*jax.device_get((want, none)))
    hold = np.asarray(hold_after(LENGTHS, TIME))
    assert same_bits(
        *jax.device_get((run(state, xs, reset, hold=hold), run(state, xs, reset, lengths=LENGTHS)))
    )
    front = to_front(jnp.asarray(hold[:, ::-1]))
    np.testing.assert_array_equal(front.lengths, LENGTHS)
    np.testing.assert_array_equal(np.take_along_axis(front.order, front.place, 1)[0], range(TIME))


@pytest.mark.parametrize("form", ["call", "scan"])
def test_wrong_holds_are_refused_in_words(form):
    cell, xs = cell_of("gru"), noise(3, TIME, WIDTH)
    run = functools.partial(cell if form == "call" else cell.scan, cell.initial_state(3), xs)
    hold = np.zeros((3, TIME), bool)
    for given, words in (
        ({"hold": hold[:, :1]}, r"^hold must be bool \(3, 9\), got bool \(3, 1\)"),
        ({"hold": hold.astype(int)}, r"^hold must be bool"),
        ({"hold": hold.tolist()}, r"^hold must be bool \(3, 9\), got list"),
        ({"lengths": LENGTHS.tolist()}, r"^lengths must be int \(3,\), got list"),
        ({"lengths": np.array([1, 2])}, r"^lengths must be int \(3,\)"),
        ({"lengths": np.array([1, 2, 10])}, r"^lengths: 10 is not a number of tokens from 0 to 9"),
        ({"lengths": LENGTHS, "hold": hold}, "^hold and lengths: give one"),
    ):
        with pytest.raises(UserError, match=words):
            run(**given)
    with pytest.raises(UserError, match=r"^lengths: a step reads one token; give hold"):
        cell.step(cell.initial_state(3), xs[:, 0], lengths=LENGTHS)


def test_a_fork_without_lengths_runs_its_definition():
    (leaky,) = cells_in_file(LEAKY)
    cell = shaken(leaky(leaky.__init__.__annotations__["config"](WIDTH), rngs=nnx.Rngs(0)), 0)
    layout = layouts(LENGTHS, TIME)["holes"]
    xs = layout.spread(noise(3, TIME, WIDTH), np.nan)
    state = jax.tree.map(lambda x: x + 1.0, cell.initial_state(3))
    once, twice = (
        quick_jit(lambda xs, hold, run=run: run(state, xs, hold=hold))(xs, layout.hold)
        for run in (cell, cell.scan)
    )
    assert same_bits(*jax.device_get((once, twice)))
    assert not jnp.isnan(once[1]).any()

    class NoHold(leaky):
        def scan(self, state, xs, reset=None, key=None, *, step=None):
            return super().scan(state, xs, reset, key, step=step)

    other = NoHold(cell.config, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"^hold: NoHold.scan does not take it; add `hold=None`"):
        other(state, xs, hold=layout.hold)


# What a promise must notice: (cell, its small config, module, name there, replacement).
BREAKS = {
    "the state of a held row": (
        "gru", {}, arguments, "keep_held", lambda hold, before, after: after,
    ),
    "the state of a held row in a scan": (
        "gru", {}, base, "keep_held", lambda hold, before, after: after,
    ),
    "the last token": (
        "rwkv4", {"chunk_size": 4}, rwkv4, "last_token", lambda xs, before, lengths: xs[:, -1],
    ),
    "the inputs of a convolution": (
        "mamba1", {"chunk_size": 4}, mamba1, "state_after", lambda s, xs, *_: xs[:, -s.shape[1] :],
    ),
    "the position in a ring": (
        "attention", {"chunk_size": 4, "window": 6, "head_size": 8}, attention, "last_token",
        lambda xs, before, lengths: xs[:, -1],
    ),
    "a decay": (
        "rwkv6", {"chunk_size": 4, "head_size": 8}, rwkv6, "within", lambda lengths, time, w: w,
    ),
    "a write": (
        "gated_delta", {"chunk_size": 4}, gated_delta, "without", lambda hold, gates: gates,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
def test_a_promise_fails_if_padding_changes(what, monkeypatch):
    name, fields, module, attribute, broken = BREAKS[what]
    monkeypatch.setattr(module, attribute, broken)
    only = ["hold: each row == the row alone", "hold: step, vmap, bfloat16"]
    config = CELLS[name][0](width=WIDTH, **fields)
    results = check_cell(name, config, only=only, raises=False)
    told = [result.detail for result in results if not result.ok]
    assert told and all("off by" in line or "changes" in line for line in told)

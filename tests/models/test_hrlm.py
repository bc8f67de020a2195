"""HRLM: parameter counts, attention masks, halting, losses, and the leak of `as_written`."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodels
from jaxmodels.data.tokenizers.special import EOS, PAD, SEP
from jaxmodels.errors import UserError
from jaxmodels.models.contract import loss_weights, target_counts
from jaxmodels.models.hrlm import act
from jaxmodels.models.hrlm.model import prefix_of
from jaxmodels.ops import losses
from jaxmodels.testing.lab import quick_jit, shaken

V, T, B = 12, 10, 4
TINY = {"vocab_size": V, "seq_len": T, "width": 16, "head_size": 8, "mlp_multiple": 8}
TINY |= {"high_layers": 1, "low_layers": 1}
RNG = np.random.default_rng(0)


def make(name="hrlm", **changes):
    return jaxmodels.create(name, **TINY | changes)


def rows(count=B, rng=RNG):
    """[INPUT][SEP][OUTPUT][EOS], INPUT of 2 or 3 tokens, OUTPUT of 2, and PAD."""
    tokens = np.full((count, T), PAD, np.int32)
    for row in tokens:
        size = rng.integers(2, 4)
        row[:size] = rng.integers(4, V, size)
        row[size : size + 4] = [SEP, *rng.integers(4, V, 2), EOS]
    return tokens


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hrlm/base", 27_366_402),
        ("hrlm/intermediate", 86_472_194),
        ("hrlm/advanced", 226_002_946),
        ("hrm/hrm_sudoku", 27_275_266),
        ("hrm/trm_sudoku", 6_828_034),
        ("hrm/trm_sudoku_mlp", 5_028_866),
    ],
)
def test_parameter_counts(name, parameters):
    """docs/systems.md L-09 to L-11, and the papers of HRM and TRM, without puzzle vectors."""
    config = jaxmodels.make_config(name)
    shapes = jax.eval_shape(lambda: jaxmodels.create(config))
    vectors = config.puzzle_ids * config.width
    assert jaxmodels.count_parameters(shapes) - vectors == parameters


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("hrm/hrm_sudoku", (11, 81, 512, 8, 2, 2, 4, 4, 16, "stablemax", "grid")),
        ("hrm/trm_sudoku_mlp", (11, 81, 512, 8, 3, 6, 2, 2, 16, "stablemax", "grid")),
        ("hrlm/v1", (1000, 1024, 768, 12, 4, 4, 6, 6, 32, "softmax", "nar")),
        ("hrlm/base", (100, 256, 512, 8, 2, 2, 4, 4, 16, "softmax", "nar")),
        ("hrlm/intermediate", (1000, 512, 768, 12, 3, 3, 6, 6, 32, "softmax", "nar")),
        ("hrlm/advanced", (10_000, 1024, 1024, 16, 4, 4, 8, 8, 64, "softmax", "nar")),
    ],
)
def test_sizes_of_presets(name, sizes):
    """L-04, L-08 to L-11."""
    c = jaxmodels.make_config(name)
    found = c.vocab_size, c.seq_len, c.width, c.width // c.head_size, c.high_cycles, c.low_cycles
    found += c.high_layers, c.low_layers, c.halt_max_steps, c.loss, c.mode
    assert found == sizes
    assert c.halt_exploration == 0.1 and c.recurrent and c.rope_base == 10_000.0


@pytest.mark.slow
def test_text_preset():
    """L-05, L-06, L-08: TextHRMConfig, hrlm_v1.yaml, and the embedding's scale."""
    v1 = jaxmodels.make_config("hrlm/v1")
    assert (v1.width, v1.high_layers, v1.low_cycles, v1.halt_max_steps) == (768, 6, 4, 32)
    assert (v1.halt_exploration, v1.loss, v1.puzzle_ids, v1.expansion) == (0.1, "softmax", 0, 4.0)
    c = jaxmodels.make_config("hrlm/text")
    assert (c.vocab_size, c.seq_len, c.width, c.width // c.head_size) == (1000, 1024, 768, 12)
    assert (c.high_cycles, c.low_cycles, c.high_layers, c.low_layers) == (4, 4, 6, 6)
    assert (c.halt_max_steps, SEP, c.limits) == (64, 3, (512, 512))
    table = make(vocab_size=4000, width=64).embed.table[...]
    assert np.std(table) == pytest.approx(64**-0.5, rel=0.01)
    thoughts = make(width=4096, head_size=64).initial_carry(1, 1)
    assert np.std(thoughts.high) == pytest.approx(1.0, rel=0.03)
    assert np.std(thoughts.low) == pytest.approx(1.0, rel=0.03)


def test_prefix_mask_is_bidirectional_then_causal():
    model = shaken(make("hrlm/prefix_ar"), 0)
    tokens = rows()
    read = quick_jit(lambda tokens: model(None, tokens)[1].logits)
    before = read(tokens)
    prefix = np.asarray(prefix_of(jnp.asarray(tokens)))
    for row in range(B):
        sep = int(np.flatnonzero(tokens[row] == SEP)[0])
        assert prefix[row].tolist() == [True] * (sep + 1) + [False] * (T - sep - 1)
        other = tokens.copy()
        other[row, sep + 2] = 4 + (other[row, sep + 2] - 3) % (V - 4)
        after = read(other)
        np.testing.assert_array_equal(after[row, : sep + 2], before[row, : sep + 2])
        assert np.abs(after[row, sep + 2] - before[row, sep + 2]).max() > 1e-5
        other = tokens.copy()
        other[row, 1] = 4 + (other[row, 1] - 3) % (V - 4)
        assert np.abs(read(other)[row, 0] - before[row, 0]).max() > 1e-5


def test_window_and_pad_masks():
    model = shaken(make(mode="as_written", mask_pad=True, window=3, registers=1), 0)
    tokens = rows()
    seen = np.asarray(model.mask(jnp.asarray(tokens)).dense())
    assert seen.shape == (B, T + 1, T + 1) and seen[:, :, 0].all()
    np.testing.assert_array_equal(seen[:, 0, 1:], tokens != PAD)  # or tokens read it in two steps
    inner = seen[:, 1:, 1:]
    assert not inner[:, :, :][np.broadcast_to((tokens == PAD)[:, None], inner.shape)].any()
    assert inner[0, 3, 1] and not inner[0, 4, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "nar", "window": 3, "registers": 2},
        {"mode": "prefix_ar", "registers": 0, "halt_max_steps": 1},
        {"mode": "as_written", "mask_pad": True, "registers": 1},
    ],
)
def test_blocks_of_queries_change_nothing(changes):
    """A step's losses and gradients, with the scores of two queries in memory at a time."""

    def run(block_size):
        model = shaken(make(halt_exploration=0.0, block_size=block_size, **changes), 0)
        batch = batch_of(rows(rng=np.random.default_rng(1)))
        state, key = model.initial_state(B), jax.random.key(0)

        def loss(model):
            sums = model.loss_sums(state, batch, key)[1]
            return sum(x.weight * sums[x.name] for x in model.terms if x.weight)

        return quick_jit(jax.value_and_grad(loss))(model)

    for parts, whole in zip(*map(jax.tree.leaves, (run(2), run(T))), strict=True):
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5 * (1e-2 + abs(whole).max()))


def thinker(**changes):
    """A model whose Q-head has an opinion of every row."""
    model = shaken(make(halt_max_steps=6, **changes), 1)
    model.q_head.kernel[...] = 2.0 * jnp.asarray(RNG.standard_normal((16, 2)), jnp.float32)
    model.q_head.bias[...] = jnp.zeros(2)
    return model


@pytest.mark.parametrize("changes", ({}, {"registers": 0, "q_continue": False}), ids=str)
def test_solve_keeps_the_step_of_halting(changes):
    """Rows that halt at different rounds answer as they do alone."""
    model = thinker(**changes)
    tokens = jnp.asarray(rows(8))
    # A product of one row adds up in another order than one of eight; six rounds enlarge that.
    close = {"rtol": 0.0, "atol": 1e-4}
    solve = quick_jit(lambda tokens: model.solve(tokens, adaptive=True))
    together, rounds, _ = solve(tokens)
    assert len(set(np.asarray(rounds).tolist())) > 1
    for row in range(8):
        alone, own, _ = solve(tokens[row : row + 1])
        assert own[0] == rounds[row]
        np.testing.assert_allclose(alone[0], together[row], **close)
    fixed, most, _ = quick_jit(lambda tokens: model.solve(tokens))(tokens)
    assert (most == 6).all()
    thoughts = None
    round_ = quick_jit(lambda thoughts: model(thoughts, tokens))
    for count in range(1, 7):
        thoughts, out = round_(thoughts)
        halting = np.asarray(rounds) == count
        np.testing.assert_allclose(out.logits[halting], together[halting], **close)
    np.testing.assert_allclose(out.logits, fixed, **close)


def batch_of(tokens):
    """Labels on the two tokens behind SEP."""
    answer = np.zeros(tokens.shape, np.float32)
    for row, line in zip(answer, tokens, strict=True):
        row[int(np.flatnonzero(line == SEP)[0]) + 1 :][:2] = 1.0
    inputs = np.where(np.cumsum(answer, 1) > 0, PAD, tokens)
    return {"inputs": inputs, "targets": tokens, "weights": answer}


def test_training_act_steps():
    """L-03: a row keeps its sample until it halts; bounds, exploration, the carry's values."""
    model = thinker(halt_exploration=0.5)
    step = quick_jit(lambda state, batch, key: model.loss_sums(state, batch, key))
    think = quick_jit(model.__call__)
    state, seen = model.initial_state(B), []
    for count in range(14):
        batch = batch_of(rows())
        before = state
        state, sums = step(state, batch, jax.random.key(count))
        for row in range(B):
            expected = batch["inputs"] if before.halted[row] else np.asarray(before.inputs)
            np.testing.assert_array_equal(state.inputs[row], expected[row])
            assert state.steps[row] == (1.0 if before.halted[row] else before.steps[row] + 1.0)
            if state.steps[row] == 6.0:
                assert state.halted[row] == 1.0
        thoughts = jax.tree.map(
            lambda a, b, before=before: jnp.where(before.halted.reshape(-1, 1, 1) > 0, a, b),
            model.initial_carry(B, T),
            before.thoughts,
        )
        want, out = think(thoughts, state.inputs)
        np.testing.assert_allclose(state.thoughts.high, want.high, atol=1e-5)
        halted = np.asarray(state.halted) > 0
        seen += np.asarray(state.steps)[halted].tolist()
        assert sums["ended"] == halted.sum()
        np.testing.assert_allclose(sums["steps"], np.asarray(state.steps).sum())
        # Without exploration a row would halt exactly when it wishes to, or must.
        wishes = np.asarray(out.q_halt > out.q_continue) | (np.asarray(state.steps) == 6.0)
        assert (halted <= wishes).all()
    assert 1 < len(set(seen)) and max(seen) <= 6.0


def test_puzzle_vector_depends_on_its_puzzle_only():
    model = thinker(puzzle_ids=3, q_continue=False)
    rng = np.random.default_rng(0)
    model.puzzle[...] = model.puzzle[...] + rng.normal(size=model.puzzle.shape)
    which = np.arange(B, dtype=np.int32) % 2 * 2  # puzzles 0 and 2
    tokens = np.repeat(rows()[:1], B, 0)
    out = quick_jit(lambda tokens, which: model(None, tokens, None, which)[1])(tokens, which)
    np.testing.assert_array_equal(out.logits[0], out.logits[2])
    assert np.abs(out.logits[0] - out.logits[1]).max() > 1e-3
    unknown = model.embed_tokens(tokens, np.array([3, -1, *which[2:]], np.int32))
    assert np.isnan(unknown[:2, 0]).all() and np.isfinite(unknown[2:]).all()

    def loss(model, state, batch, key):
        state, sums = model.loss_sums(state, batch, key)
        return sums["answer"], state

    step = quick_jit(jax.grad(loss, has_aux=True))
    batch = batch_of(rows()) | {"identifiers": which}
    grads, state = step(model, model.initial_state(B), batch, jax.random.key(0))
    touched = np.abs(grads.puzzle[...]).max(1) > 0
    assert touched.tolist() == [True, False, True]
    # A sample that goes on keeps its own identifier, whatever the next batch brings.
    state = state.replace(halted=jnp.zeros(B).at[0].set(1.0))
    _, state = step(model, state, batch | {"identifiers": np.ones(B, np.int32)}, jax.random.key(1))
    assert state.identifiers.tolist() == [1, *which[1:].tolist()]


def test_fixed_act_steps_ignore_q_head():
    """A head that always wishes to halt is obeyed when adaptive; else samples think to the end."""
    for adaptive, expected in ((True, [1.0] * 7), (False, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0])):
        model = thinker(halt_exploration=0.0, adaptive=adaptive, q_continue=False)
        model.q_head.bias[...] = model.q_head.bias[...] * 0.0 + 100.0
        step = quick_jit(lambda state, batch, key, model=model: model.loss_sums(state, batch, key))
        state, seen = model.initial_state(B), []
        for count in range(7):
            state, _ = step(state, batch_of(rows()), jax.random.key(count))
            assert len(set(state.steps.tolist())) == 1
            seen.append(float(state.steps[0]))
        assert seen == expected


def test_evaluation_follows_eval_halt():
    """The Q-head always halts, sure by 0.73; only "adaptive" uses it, if it need not be surer."""
    for halt, least, expected in (
        ("max", 0.0, 6.0),
        ("adaptive", 0.5, 1.0),
        ("adaptive", 0.9, 6.0),
    ):
        model = thinker(eval_halt=halt, eval_confidence=least, q_continue=False)
        model.q_head.kernel[...] = model.q_head.kernel[...] * 0.0
        model.q_head.bias[...] = model.q_head.bias[...] * 0.0 + 1.0
        batch = batch_of(rows())
        state = model.initial_state(B)
        _, sums = quick_jit(lambda m, *args: m.loss_sums(*args))(model, state, batch)
        assert sums["steps"] == expected * B


def test_causal_mode_masks_the_question():
    sizes = {"mode": "prefix_ar", "registers": 0, "halt_max_steps": 1}
    tokens = rows()
    for causal in (True, False):
        mask = np.asarray(make(**sizes, causal=causal).mask(tokens).dense())
        later = np.triu(np.ones(mask.shape[1:], bool), 1)
        assert (mask & later).any() == (not causal)
    with pytest.raises(UserError, match="requires mode prefix_ar"):
        make(mode="nar", causal=True)


def test_q_head_targets():
    """HRM: correctness, and sigmoid(max(q_halt, q_continue)) of the next ACT step."""
    model = thinker(halt_exploration=0.0)
    batch = batch_of(rows())
    state = model.initial_state(B)
    _, sums = quick_jit(model.loss_sums)(state, batch, jax.random.key(0))
    think = quick_jit(model.__call__)
    thoughts, out = think(model.initial_carry(B, T), batch["inputs"])
    _, ahead = think(thoughts, batch["inputs"])
    labelled = batch["weights"] > 0
    right = ((np.argmax(out.logits, -1) == batch["targets"]) | ~labelled).all(1)

    def bce(q, target):
        p = 1.0 / (1.0 + np.exp(-np.asarray(q, np.float64)))
        return -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum()

    np.testing.assert_allclose(sums["halt"], bce(out.q_halt, right), rtol=1e-5)
    best = 1.0 / (1.0 + np.exp(-np.maximum(ahead.q_halt, ahead.q_continue)))
    np.testing.assert_allclose(sums["continue"], bce(out.q_continue, best), rtol=1e-5)
    assert sums["exact"] == right.sum()
    counts = target_counts(model, batch)
    assert set(counts) == set(sums) and counts["answer"] == B


def test_answer_loss_averages_rows_then_batch():
    """L-50, L-51, against float64: sums of rows, their means, and the mean over rows."""
    logits = RNG.standard_normal((3, T, V)).astype(np.float32) * 4
    targets = RNG.integers(0, V, (3, T))
    weights = (RNG.random((3, T)) < 0.5).astype(np.float32)
    weights[2] = 0.0
    x = logits.astype(np.float64)
    for loss in ("softmax", "stablemax"):
        s = np.exp(x) if loss == "softmax" else np.where(x >= 0, x + 1.0, 1.0 / (1.0 - x))
        p = s / s.sum(-1, keepdims=True)
        paid = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])
        want = (paid * weights).sum(1)
        got, count, right, exact = act.answer_losses(logits, targets, weights, loss)
        np.testing.assert_allclose(got, want, rtol=1e-5)
        np.testing.assert_array_equal(count, weights.sum(1))
        hits = (x.argmax(-1) == targets) * weights
        np.testing.assert_array_equal(right, hits.sum(1))
        np.testing.assert_array_equal(exact, (hits.sum(1) == weights.sum(1)) & (weights.sum(1) > 0))
        for mean in ("sequence", "token"):
            config = jaxmodels.make_config(
                "hrlm", **TINY, loss=loss, loss_mean=mean, halt_max_steps=1
            )
            model = SimpleNamespace(config=config)
            sums, _ = act._answer(model, logits, targets, weights)
            batch = {"weights": weights}
            counts = {term.name: term.count(batch) for term in act.terms(config)}
            by_row = want[:2] / weights[:2].sum(1)  # the third has no label
            whole = by_row.mean() if mean == "sequence" else want.sum() / weights.sum()
            np.testing.assert_allclose(sums["answer"] / counts["answer"], whole, rtol=1e-5)
            share = (hits.sum(1) / np.maximum(weights.sum(1), 1.0))[:2].mean()
            np.testing.assert_allclose(sums["accuracy"] / counts["accuracy"], share, rtol=1e-5)
    assert np.isfinite(losses.log_stablemax(jnp.array([-1e30, 0.0, 1e30]))).all()


def test_exploration_is_a_tenth_of_the_rows_with_two_steps_or_more():
    """L-03: a share `halt_exploration` gets a minimum drawn from 2 to the limit."""
    config = jaxmodels.make_config("hrlm", **TINY, halt_max_steps=6)
    keys = jax.random.split(jax.random.key(0), 20_000)
    explores, least = jax.vmap(lambda key: act._exploration(config, key))(keys)
    assert abs(float(explores.mean()) - 0.1) < 4 * (0.09 / 20_000) ** 0.5
    counts = np.bincount(least[explores], minlength=8)
    assert not counts[:2].any() and counts[7] == 0
    np.testing.assert_allclose(counts[2:7] / counts.sum(), 0.2, atol=4 * (0.16 / 2000) ** 0.5)


def test_no_row_would_halt_at_first():
    """L-03: the Q-head starts at sigmoid(-5) for both, whatever it reads."""
    head = make().q_head
    assert not head.kernel[...].any()
    np.testing.assert_array_equal(head.bias[...], [-5.0, -5.0])


def test_weights_of_the_losses():
    """L-51: 1 for the answer, 0.5 for each Q-loss, at any time of the run."""
    for progress in (0.0, 1.0):
        weights = loss_weights(thinker(), jnp.float32(progress))
        assert weights == {"answer": 1.0, "halt": 0.5, "continue": 0.5}
    once = make(halt_max_steps=1, registers=0)
    assert loss_weights(once, jnp.float32(0.0)) == {"answer": 1.0}


def test_gradient_calls_warm_up_from_two_to_five():
    c = jaxmodels.make_config("hrlm/prefix_ar")
    calls = [int(act.calls_at(c, jnp.float32(p))) for p in (0.0, 0.06, 0.07, 0.14, 0.2, 1.0)]
    assert calls == [2, 2, 3, 4, 5, 5]
    assert act.calls_at(c, None) is None


def learned(mode, batches, steps=120):
    """A small model trained on these batches -> (model, share of rows exactly right at the end)."""
    model = make(mode=mode, halt_max_steps=1, registers=0, width=32)
    optimizer = optax.adam(5e-3)

    def update(carry, batch):
        model, opt = carry

        def loss(model):
            sums = model.loss_sums((), batch, jax.random.key(0))[1]
            return sums["answer"] / 32, sums["exact"] / 32

        grads, exact = jax.grad(loss, has_aux=True)(model)
        updates, opt = optimizer.update(grads, opt, model)
        return (optax.apply_updates(model, updates), opt), exact

    def run(model, batches):
        return jax.lax.scan(update, (model, optimizer.init(model)), batches)

    (model, _), exact = quick_jit(run)(model, jax.tree.map(lambda x: x[:steps], batches))
    return model, float(exact[-10:].mean())


def test_as_written_mode_copies_answer_from_input():
    """Random answers cannot be predicted. In mode as_written the model reproduces them, but not if
    the input omits them; with blanks in their place it does not learn them.
    """
    tokens = rows(32 * 120).reshape(120, 32, T)
    blank = jax.tree.map(lambda *x: np.stack(x), *[batch_of(part) for part in tokens])
    leaking = blank | {"inputs": tokens}
    model, exact = learned("as_written", leaking)
    assert exact > 0.9
    last = {name: x[-1] for name, x in blank.items()}
    without = quick_jit(model.loss_sums)((), last)[1]
    assert without["exact"] / 32 < 0.2
    _, honest = learned("nar", blank)
    assert honest < 0.2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "both"}, "mode must be one of grid, nar, prefix_ar, as_written"),
        ({"mask_pad": True}, "must be False in mode nar"),
        ({"mode": "prefix_ar"}, "mode prefix_ar requires halt_max_steps=1"),
        ({"loss_mean": "token"}, "'token' does not support halting"),
        ({"low_init": (1.0, 2.0)}, "low_init: expected 16 numbers, got 2"),
        ({"recurrent": False}, "recurrent=False does not support halting"),
        ({"mixer": "convolution"}, "mixer must be one of attention, tokens"),
        ({"mixer": "tokens", "norm": "pre"}, "mixer 'tokens' requires seq_len, norm='post'"),
        ({"mixer": "tokens", "window": 3}, "leave out window and mask_pad"),
        ({"puzzle_slots": 0}, "puzzle_slots must be"),
        ({"max_output_length": 0}, "max_output_length must be"),
        ({"mode": "grid", "max_input_length": 3}, "max_input_length: a grid has seq_len cells"),
    ],
)
def test_invalid_configs_are_rejected(changes, words):
    with pytest.raises(UserError, match=words):
        make(**changes)


def test_slots_of_trm():
    """The puzzle's vector is in the first of 16 positions; the others are empty, as in TRM."""
    presets = ("hrm/trm_sudoku", "hrm/trm_sudoku_mlp", "hrm/trm_maze", "hrm/hrm_sudoku")
    assert [jaxmodels.make_config(name).front for name in presets] == [16, 16, 16, 1]
    model = shaken(make("hrm/trm_sudoku_mlp"), 0)
    assert model.core.low.blocks.mix_up.kernel.shape == (1, 16 + T, 2 * 72)
    tokens = rows(2) % 4
    front = np.asarray(model.embed_tokens(tokens))[:, :16]
    assert front[:, 0].any() and not front[:, 1:].any()
    run = quick_jit(lambda tokens: model(None, tokens)[1])
    out, other = run(tokens), run((tokens + (np.arange(T) == T - 1)) % 4)
    assert out.logits.shape == (2, T, V)
    assert np.abs(out.logits - other.logits)[:, 0].max() > 1e-4  # each position reads the last one


@pytest.mark.parametrize("mode", ["grid", "prefix_ar"])
def test_padded_rows_equal_the_rows_alone(mode):
    """With `mask_pad`, which nar cannot have; in prefix_ar, a padded answer needs no mask."""
    name = {"grid": "hrlm", "prefix_ar": "hrlm/prefix_ar"}[mode]
    model = shaken(make(name, mode=mode, mask_pad=mode == "grid"), 0)
    tokens = rows(2)
    lengths = (tokens != PAD).sum(1)
    run = quick_jit(lambda tokens: model(None, tokens)[1])
    padded = run(tokens)
    for row, length in enumerate(lengths):
        alone = run(tokens[row : row + 1, :length])
        np.testing.assert_allclose(padded.logits[row, :length], alone.logits[0], atol=2e-5)
        np.testing.assert_allclose(padded.q_halt[row], alone.q_halt[0], atol=2e-5)
    if mode == "grid":
        unmasked = shaken(make(mode=mode), 0)
        other = quick_jit(lambda tokens: unmasked(None, tokens)[1])(tokens)
        assert np.abs(padded.logits - other.logits)[0, : lengths[0]].max() > 1e-3

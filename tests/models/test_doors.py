"""Every model refuses wrong tokens, states and batches in words, before anything is computed."""

import re

import jax
import jax.numpy as jnp
import pytest

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.testing.models import small_config

BATCH = 2


@pytest.fixture(scope="module", params=jaxmodels.MODELS)
def case(request):
    """(model of zeros: nothing is computed; state of the batch; batch that fits)."""
    config = small_config(request.param)
    shapes = jax.eval_shape(lambda: jaxmodels.create(config))
    model = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    time = getattr(model.config, "seq_len", 12)
    tokens = jnp.zeros((BATCH, time), jnp.int32)
    batch = {"inputs": tokens, "targets": tokens, "weights": jnp.ones((BATCH, time), jnp.float32)}
    return model, model.initial_state(BATCH), batch


def refused(words: str):
    return pytest.raises(UserError, match="^" + re.escape(words))


def test_calls(case):
    model, state, batch = case
    reads_rows = jaxmodels.models.contract.traits_of(model).solve is not None
    state, tokens = (None if reads_rows else state), batch["inputs"]
    size = model.config.vocab_size
    for wrong in (tokens.astype(jnp.float32), tokens[0], tokens[..., None], tokens > 0):
        with refused(f"tokens must be int (batch, time), got {wrong.dtype} ("):
            model(state, wrong)
    for wrong in (-1, size):
        with refused(f"tokens: id {wrong} is outside the vocabulary, 0 to {size - 1}"):
            model(state, tokens.at[1, 2].set(wrong))
    if not reads_rows:
        for wrong in (jnp.zeros((BATCH, 1), bool), tokens, [[True] * tokens.shape[1]] * BATCH):
            with refused(f"reset must be bool ({BATCH}, {tokens.shape[1]}), got "):
                model(state, tokens, wrong)
    other = model.initial_carry(3, 5) if reads_rows else model.initial_state(3)
    with pytest.raises(UserError, match=r"^(state|thoughts)\S* must be \w+ \(2, .*, got \w+ \(3, "):
        model(other, tokens)
    half = model.initial_carry(*tokens.shape) if reads_rows else state
    half = jax.tree.map(lambda x: x.astype(jnp.float16), half)
    with pytest.raises(UserError, match=r"^(state|thoughts)\S* must be .*, got float16 "):
        model(half, tokens)
    with pytest.raises(UserError, match=r"^(state|thoughts) must be what initial_"):
        model((half, half), tokens)


def test_lengths_that_a_program_closes_over(case):
    """They are known while everything else is traced, as in the layers of a plain call."""
    model, state, batch = case
    if jaxmodels.models.contract.traits_of(model).solve is not None:
        state = None
    lengths = jnp.array([0, 3], jnp.int32)
    jax.eval_shape(lambda model: model(state, batch["inputs"], lengths=lengths), model)


def test_rows(case):
    """Models that read rows as a whole take puzzle numbers and lengths."""
    model, _, batch = case
    if jaxmodels.models.contract.traits_of(model).solve is None:
        pytest.skip("reads from left to right")
    tokens, row = batch["inputs"], jnp.zeros((BATCH,), jnp.int32)
    for name in ("identifiers", "lengths"):
        for wrong in (row[:1], row[:, None], row.astype(jnp.float32)):
            with refused(f"{name} must be int (2,), got "):
                model(None, tokens, **{name: wrong})
    with refused("identifiers must be int (2,), got "):
        model.solve(tokens, identifiers=row[:1])
    with refused("tokens must be int (batch, time), got float32"):
        model.solve(tokens.astype(jnp.float32))
    with refused("batch['identifiers'] must be int (2,), got "):
        model.loss_sums(model.initial_state(BATCH), batch | {"identifiers": row[:1]})
    if model.config.puzzle_ids:
        with refused(
            f"identifiers: id 99 is outside the puzzles, 0 to {model.config.puzzle_ids - 1}"
        ):
            model(None, tokens, identifiers=row + 99)
    if model.config.halts:
        short = {name: x[:, 1:] for name, x in batch.items()}
        with refused(f"batch['inputs'] must have the model's {model.config.seq_len} tokens a row"):
            model.loss_sums(model.initial_state(BATCH), short)


def test_batches(case):
    model, state, batch = case
    tokens, size = batch["inputs"], model.config.vocab_size
    for name in batch:
        with refused(f"batch: field {name!r} is missing"):
            model.loss_sums(state, {key: x for key, x in batch.items() if key != name})
    for name, words in (("targets", "int"), ("weights", "real")):
        with refused(f"batch[{name!r}] must be {words} {tokens.shape}, got "):
            model.loss_sums(state, batch | {name: batch[name][:, 1:]})
    with refused("batch['inputs'] must be int (batch, time), got float32"):
        model.loss_sums(state, batch | {"inputs": batch["weights"]})
    with refused(f"batch['targets']: id {size} is outside the vocabulary"):
        model.loss_sums(state, batch | {"targets": tokens.at[0, 1].set(size)})
    if jax.tree.leaves(state):
        with pytest.raises(UserError, match=r"^state\S* must be \w+ \(2,.*, got \w+ \(3,"):
            model.loss_sums(model.initial_state(3), batch)


def test_targets_that_do_not_count_may_be_anything(case):
    model, state, batch = case
    last = batch["targets"].at[0, 1].set(-100), batch["weights"].at[0, 1].set(0.0)
    hidden = dict(zip(("targets", "weights"), last, strict=True))
    jax.eval_shape(lambda model: model.loss_sums(state, batch | hidden), model)


@pytest.mark.parametrize(
    ("model", "fields", "words"),
    [
        (3, {}, "int is not the config of a model in MODELS"),
        (None, {}, "NoneType is not the config"),
        (small_config("rwkv"), {"widht": 8}, "rwkv has no field 'widht'; did you mean 'width'?"),
        ("rwkv/7", {"width": 2**31}, "width must be at most 2,147,483,647, got 2,147,483,648"),
        ("rnk", {"num_layers": 10**9}, "num_layers must be at most 10,000, got 1,000,000,000"),
        ("hrm", {"low_layers": 10**9}, "low_layers must be at most 10,000"),
        ("rwkv/7", {"seed": 1.5}, "seed=1.5: give a whole number below 2^63"),
        ("rwkv/7", {"seed": 2**70}, "seed=1180591620717411303424: give a whole number"),
    ],
)
def test_models_that_cannot_be_made(model, fields, words):
    with refused(words):
        jaxmodels.create(model, **fields)


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"model": 3}', b"\xff", "[" * 100_000])
def test_texts_that_are_no_config(text):
    with refused("config: "):
        jaxmodels.config_from_json(text)

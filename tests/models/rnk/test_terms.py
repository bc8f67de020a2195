"""RNK's losses: the formula, each sub-loss against its definition, and what each may read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from jaxmodels.data.chat.exchange import Exchange, lay_out
from jaxmodels.models.contract import loss_weights, target_counts
from jaxmodels.models.rnk.chunking import Ends
from jaxmodels.models.rnk.config import INTENTS
from jaxmodels.models.rnk.terms import RNKOutput, response_of, stop_targets, terms_of
from jaxmodels.testing.lab import quick_jit
from jaxmodels.tree import flatten
from tests.models.rnk.small import CHUNKINGS, small_config, small_model

EXCHANGES = [
    Exchange(("hi",), "hello there", intent="greeting", answerable=True),
    Exchange(("who are you?",), "a model of bytes", intent="identity", answerable=True),
    Exchange(("hi", "hello", "2 + 2?"), "4", intent="math"),
    Exchange(("what is my name?",), "I do not know that, sorry", answerable=False),
]


def batch_of(chunk_size=4, seq_len=64):
    rows = lay_out(EXCHANGES, seq_len, chunk_size, INTENTS)
    return rows.batch(np.arange(len(EXCHANGES)))


def test_the_total_is_the_formula():
    """R-16: Token + 0.5 Stop + 0.2 Intent + 0.3 Answerable + 0.1 Contrastive."""
    model = jax.eval_shape(lambda: jaxmodels.create(small_config()))
    weights = {name: float(w) for name, w in loss_weights(model, jnp.float32(0.5)).items()}
    assert weights == pytest.approx(
        {"next_token": 1.0, "stop": 0.5, "intent": 0.2, "answerable": 0.3, "contrastive": 0.1}
    )
    counts = target_counts(model, batch_of())
    answers = sum(len(x.response) + 1 for x in EXCHANGES)
    assert {name: float(n) for name, n in counts.items()} == {
        "next_token": answers, "accuracy": answers, "stop": 4, "intent": 3,
        "intent_accuracy": 3, "answerable": 3, "answerable_accuracy": 3, "contrastive": 4,
    }  # fmt: skip


@pytest.mark.parametrize("name", CHUNKINGS)
def test_stop_targets_are_the_chunk_that_holds_the_end(name):
    model = small_model(**CHUNKINGS[name])
    batch = batch_of()
    _, out = quick_jit(lambda m, s, x: m(s, x))(model, model.initial_state(4), batch["inputs"])
    got = np.asarray(stop_targets(model.config, out.ends, batch))
    closes = np.asarray(out.ends.closes)
    for row, x in enumerate(EXCHANGES):
        places = np.flatnonzero(batch["weights"][row])
        last = places[-1]  # target END
        assert batch["targets"][row, last] == model.config.end and len(places) > len(x.response)
        for t in places:  # byte t + 1 to END: no chunk ends in between
            assert got[row, t] == (not closes[row, t + 1 : last + 1].any()), (row, t)


def output(**fields):
    blank = {
        "logits": jnp.zeros((2, 6, 9)),
        "stop": jnp.zeros((2, 6)),
        "ends": Ends(*[jnp.zeros((2, 6), bool)] * 3),
        "context": jnp.zeros((2, 8)),
        "intent": jnp.zeros((2, 3)),
        "answerable": jnp.zeros(2),
    }
    return RNKOutput(**(blank | fields))


def term(config, name):
    (found,) = (t for t in terms_of(config) if t.name == name)
    return found


def test_stop_and_answerable_are_cross_entropies():
    config = small_config()
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 6)).astype(np.float32)
    targets = np.zeros((2, 6), np.int32)
    targets[0, 3] = config.end
    weights = np.array([[0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]], np.float32)
    batch = {"targets": targets, "weights": weights}
    # Chunks that start within responses: targets 1 and 3 of the first row, which ends in the later
    # one, and target 4 of the second row.
    closes = jnp.array([[0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0]], bool)
    p = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    want = (-np.log(1 - p[0, 1]) - np.log(p[0, 3])) / 2 - np.log(1 - p[1, 4])
    got = term(config, "stop").sum(
        output(stop=jnp.asarray(logits), ends=Ends(*[closes] * 3)), batch
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)
    batch["answerable"] = np.array([1, 0], np.int32)
    got = term(config, "answerable").sum(output(answerable=jnp.array([0.3, -1.2])), batch)
    want = np.log1p(np.exp(-0.3)) + np.log1p(np.exp(-1.2))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_contrastive_prefers_pairs_to_shuffles():
    """R-17: the positive is on the diagonal; the response's side has not read the prompt."""
    model, batch = small_model(), batch_of()
    state = model.initial_state(4)
    _, out = quick_jit(lambda m, s, x: m(s, x))(model, state, batch["inputs"])
    info_nce = term(model.config, "contrastive").sum
    answers = response_of(out)
    paired, shuffled = (
        info_nce(out.replace(context=rows), batch) for rows in (answers, jnp.roll(answers, 1, 0))
    )
    assert paired < shuffled - 1.0
    no_response = batch | {"weights": np.zeros_like(batch["weights"])}
    assert info_nce(out, no_response) == 0.0
    other = batch["inputs"].copy()
    other[:, :4] = ord("z")  # another prompt, the same response
    _, changed = quick_jit(lambda m, s, x: m(s, x))(model, state, other)
    np.testing.assert_array_equal(response_of(changed), answers)
    assert not np.array_equal(changed.context, out.context)


@pytest.mark.parametrize("name", CHUNKINGS)
def test_token_loss_reads_the_response_alone(name):
    """R-20: no gradient from logits of the prompt; R-18: none to the intent from the response."""
    model, batch = small_model(**CHUNKINGS[name]), batch_of()
    losses = {t.name: t for t in model.terms}

    def of_logits(logits):
        return losses["next_token"].sum(output(logits=logits), batch)

    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 64, 256)), jnp.float32)
    per_byte = np.any(np.asarray(jax.grad(of_logits)(logits)), -1)
    np.testing.assert_array_equal(per_byte, batch["weights"] > 0)


def test_losses_of_other_options():
    """The ratio loss is least at its target; extras and the penalty on stops have gradients."""
    model = small_model(
        extras=True, latent_weight=1.0, relevance_weight=0.5, consistency_weight=0.1,
        chunking="learned", min_chunk=1,
    )  # fmt: skip
    batch = batch_of()

    def total(model):
        _, sums = model.loss_sums(model.initial_state(4), batch)
        return sum(sums[name] for name in ("latent", "relevance", "consistency", "ratio"))

    grads = {name: np.any(g) for name, g in flatten(quick_jit(jax.grad(total))(model)).items()}
    for part in ("latent", "relevance", "stop", "router"):
        assert all(hit for name, hit in grads.items() if name.startswith(part + "/")), part

    ratio = term(model.config, "ratio").sum
    ones = {"weights": np.ones((2, 6), np.float32)}
    chance = jnp.full((2, 6), 0.1).at[:, 5].set(0.9)
    assert ratio(output(chance=chance), ones) < ratio(output(chance=jnp.full((2, 6), 0.9)), ones)

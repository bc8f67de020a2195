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
from jaxmodels.models.rnk.terms import Responses, RNKOutput, response_of, stop_targets, terms_of
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
    want = -np.log(1 - p[0, 1]) - np.log(p[0, 3]) - np.log(1 - p[1, 4])
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


def chunks_of(**fields):
    blank = {
        "mean": jnp.zeros((3, 4, 8)),
        "plan": jnp.zeros((3, 4, 8)),
        "answers": jnp.zeros((3, 4), bool),
        "gates": None,
        "index": jnp.zeros((3, 6), jnp.int32),
    }
    return Responses(**(blank | fields))


ANSWERED = np.array([[1.0] * 6, [0.0] * 6, [0, 0, 1, 1, 1, 0]], np.float32)  # not the second row
RNG = np.random.default_rng(7)


def test_contrastive_is_info_nce_over_rows_with_a_response():
    config = small_config(temperature=0.2)
    context, mean = RNG.normal(size=(3, 8)), RNG.normal(size=(3, 4, 8))
    answers = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]], bool)
    out = output(
        context=jnp.asarray(context, jnp.float32),
        chunks=chunks_of(mean=jnp.asarray(mean, jnp.float32), answers=jnp.asarray(answers)),
    )
    got = term(config, "contrastive").sum(out, {"weights": ANSWERED})
    responses = {0: (mean[0, 1] + mean[0, 2]) / 2, 2: mean[2, 0]}

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    want = 0.0
    for row in responses:
        scores = {k: cosine(context[row], r) / 0.2 for k, r in responses.items()}
        want += np.log(sum(np.exp(x) for x in scores.values())) - scores[row]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_stop_targets_end_with_a_response_alone():
    """An end byte without weight, as of an earlier exchange, ends no chunk."""
    config = small_config()
    targets = np.zeros((1, 6), np.int32)
    targets[0, [1, 4]] = config.end
    weights = np.array([[0, 0, 1, 1, 1, 0]], np.float32)
    ends = Ends(*[jnp.zeros((1, 6), bool)] * 3)
    got = stop_targets(config, ends, {"targets": targets, "weights": weights})
    assert np.asarray(got)[0].tolist() == [1, 1, 1, 1, 1, 0]
    weights[0, 4] = 0
    assert not np.any(stop_targets(config, ends, {"targets": targets, "weights": weights}))


def test_consistency_is_the_squared_excess_of_stops():
    closes = np.array([[0, 1, 0, 0, 1, 0], [1] * 6, [1, 1, 1, 0, 0, 0]], bool)
    stop = RNG.normal(size=(3, 6)).astype(np.float32)
    out = output(stop=jnp.asarray(stop), ends=Ends(*[jnp.asarray(closes)] * 3))
    p = 1.0 / (1.0 + np.exp(-stop.astype(np.float64)))
    want = (p[0, 1] + p[0, 4] - 1.0) ** 2 + (p[2, 2] - 1.0) ** 2
    config = small_config(consistency_weight=0.1)
    got = term(config, "consistency").sum(out, {"weights": ANSWERED})
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_relevance_judges_its_own_response_and_another():
    config = small_config(extras=True, relevance_weight=1.0)
    relevance = RNG.normal(size=(3, 2))
    p = 1.0 / (1.0 + np.exp(-relevance))
    want = sum(-(np.log(p[i, 0]) + np.log(1.0 - p[i, 1])) / 2 for i in (0, 2))
    out = output(relevance=jnp.asarray(relevance, jnp.float32))
    got = term(config, "relevance").sum(out, {"weights": ANSWERED})
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_latent_predicts_the_next_plan_of_the_response():
    config = small_config(extras=True, latent_weight=1.0)
    plan, latent = RNG.normal(size=(2, 3, 4, 8)).astype(np.float32)
    latent = latent[:, :3]
    answers = np.array([[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]], bool)

    def loss(plan, latent):
        chunks = chunks_of(plan=plan, answers=jnp.asarray(answers))
        out = output(chunks=chunks, latent=latent)
        return term(config, "latent").sum(out, {"weights": ANSWERED})

    error = np.square(latent - plan[:, 1:]).mean(-1)
    want = (error[0, 1] + error[0, 2]) / 2  # the last row has one chunk alone, none to predict
    np.testing.assert_allclose(loss(plan, latent), want, rtol=1e-5)
    d_plan, d_latent = jax.grad(loss, (0, 1))(jnp.asarray(plan), jnp.asarray(latent))
    assert not np.any(d_plan) and np.any(d_latent)


def test_ratio_is_one_at_its_target():
    """N / (N - 1) ((N - 1) F G + (1 - F)(1 - G)) of the shares F and mean chances G."""
    weights = np.ones((1, 10), np.float32)
    weights[0, 8:] = 0
    chance = np.array([[0.9, 0.6, 0.1, 0.2, 0.3, 0.0, 0.4, 0.1, 1.0, 1.0]], np.float32)
    f, g, n = 2 / 8, chance[0, :8].mean(), 4.0
    want = 8 * n / (n - 1) * ((n - 1) * f * g + (1 - f) * (1 - g))
    ratio = term(small_config(chunking="learned", ratio_target=n), "ratio").sum
    got = ratio(output(chance=jnp.asarray(chance)), {"weights": weights})
    np.testing.assert_allclose(got, want, rtol=1e-5)
    even = np.array([[1.0, 0.0, 0.0, 0.0] * 2 + [0.5, 0.5]], np.float32)
    np.testing.assert_allclose(ratio(output(chance=even), {"weights": weights}), 8.0, rtol=1e-6)


def test_parameters_of_other_options():
    """Every parameter of theirs has a gradient."""
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

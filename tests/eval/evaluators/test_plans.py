"""Statistics of plans against those computed by hand."""

import jax
import numpy as np
import pytest

from eval.evaluators.chat import evaluate
from eval.evaluators.plans import describe_plans, plan_spread
from jaxmodels.data.chat.exchange import Exchange, lay_out
from jaxmodels.models.rnk.config import INTENTS
from jaxmodels.testing.lab import quick_jit
from tests.models.rnk.small import small_model

EXCHANGES = [
    Exchange(("hi",), "hello there", intent="greeting"),
    Exchange(("who are you?",), "a model of bytes", intent="identity"),
    Exchange(("2 + 2?",), "4", intent="math"),
]


def test_chunks_by_place_in_the_response():
    model = small_model(chunk_size=8)
    rows = lay_out(EXCHANGES, 64, 8, INTENTS)
    found, scores = describe_plans(model, rows, 2), evaluate(model, rows, 3)
    chunks = found["chunks"]
    # Of 12, 17 and 2 bytes with their ends, from the start of a chunk on.
    assert [row["bytes"] for row in chunks] == [8 + 8 + 2, 4 + 8, 1]
    assert [row["chunks"] for row in chunks] == [3, 2, 1]
    assert [row["last"] for row in chunks] == [pytest.approx(1 / 3), 0.5, 1.0]
    bits = sum(row["bits_per_byte"] * row["bytes"] for row in chunks) / 31
    assert bits == pytest.approx(scores["bits_per_byte"], rel=1e-5)

    batch = rows.batch(np.arange(3))
    _, out = quick_jit(lambda m, x: m(m.initial_state(3), x))(model, batch["inputs"])
    at = np.argmax(batch["weights"] > 0, 1)
    stop = jax.nn.sigmoid(out.stop[np.arange(3), at])
    assert chunks[0]["stop_if_last"] == pytest.approx(float(stop[2]), abs=1e-5)
    assert chunks[0]["stop_if_not"] == pytest.approx(float(stop[:2].mean()), abs=1e-5)
    plan = np.asarray(out.chunks.plan)[
        np.arange(3), np.asarray(out.chunks.index)[np.arange(3), at] - 1
    ]
    spread = found["spread"] * found["rms"]
    assert spread == pytest.approx(float(np.sqrt(plan.var(0).mean())), rel=1e-4)
    assert {name for *_, name in found["points"]} == {"greeting", "identity", "math"}


def test_equal_plans_have_no_spread_and_intents_explain_theirs():
    plans = np.repeat(np.random.default_rng(0).normal(size=(1, 5)), 6, 0)
    names = ["a", "b"] * 3
    same = plan_spread(plans, names, np.square(plans).mean(1))
    assert same["spread"] == pytest.approx(0.0, abs=1e-6) and same["rms"] > 0
    plans[::2] += 2.0
    apart = plan_spread(plans, names, np.square(plans).mean(1))
    assert apart["between"] == pytest.approx(1.0) and apart["explained"][0] == pytest.approx(1.0)
    assert apart["spread"] == pytest.approx(1.0 / apart["rms"])
    shuffled = plan_spread(plans, ["a", "a", "a", "b", "b", "b"], np.square(plans).mean(1))
    assert shuffled["between"] < 0.2

"""Model contract: every model and the documented example conform, each mutation is detected."""

import importlib.util
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels import MODELS
from jaxmodels.models.contract import (
    Term,
    label_terms,
    loss_names,
    loss_weights,
    main_term,
    target_counts,
    term_sums,
    token_terms,
    traits_of,
)
from jaxmodels.testing.models import check_model, small_config
from tests.eval import tiny_bytes
from tests.train import toy
from train.io.log import read_metrics

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "write_a_model.md"
EXAMPLE, CHECK, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


# Labels of heads that nothing else reads.
LABELS = {"rnk": {"intent": np.array([0, 3, -1]), "answerable": np.array([1, 0, 1])}}


@pytest.mark.parametrize("name", MODELS)
def test_registered_models_conform(name):
    check_model(name, batch=LABELS.get(name))


@pytest.mark.parametrize("make", [lambda: toy.create(vocab_size=17), tiny_bytes.Toy])
def test_minimal_models_conform(make):
    check_model(make(), frozen=("sharpness",))


def test_documented_example_trains(tmp_path, monkeypatch, capsys):
    assert len(EXAMPLE.splitlines()) <= 60
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_model.py").write_text(EXAMPLE)
    (tmp_path / "text.txt").write_text(
        "It was the best of times, it was the worst of times. " * 400
    )
    exec(compile(CHECK, str(PAGE), "exec"), {})
    assert "FAIL" not in capsys.readouterr().out
    rows = read_metrics(tmp_path / "runs" / "mine")
    assert rows[0]["step"] == 5
    assert {"loss", "next_token", "accuracy", "activity", "weight/activity"} <= rows[0].keys()
    assert rows[-1]["digest"]


SABOTAGE = {
    "a head that nothing reads": (
        "return *token_terms(), activity", "return (activity,)",
        {"every parameter has a gradient": "head.kernel"},
    ),
    "a dropped reset": (
        "self.cell(state, xs, reset, key)", "self.cell(state, xs, None, key)",
        {"reset == fresh start": "reset changes nothing"},
    ),
    "a look at the next token": (
        "self.head(self.norm(xs + ys)", "self.head(self.norm(jnp.roll(xs, -1, 1) + ys)",
        {"causality": "tokens from 1 on change", "handoff f(A+B) == f(A); f(B)": "logits",
         "reset == fresh start": ""},
    ),
    "a forgotten state": (
        "        return state, term_sums", "        return (), term_sums",
        {"parameters and state: float32": "unlike initial_state"},
    ),
    "a sum without its term": (
        "return state, term_sums(self.terms, out, batch)",
        'return state, term_sums(self.terms, out, batch) | {"extra": jnp.float32(0.0)}',
        {"terms: one name, sum, count": "extra"},
    ),
    "a target that is padding": (
        "return *token_terms(), activity",
        "import dataclasses as d\n        loss, right = token_terms()\n"
        "        ones = lambda batch: batch | {'weights': jnp.ones_like(batch['weights'])}\n"
        "        loss = d.replace(loss, sum=lambda o, b, f=loss.sum: f(o, ones(b)))\n"
        "        return loss, right, activity",
        {"targets of weight 0": "next_token"},
    ),
    "a negative weight": (
        "ramp=lambda progress: progress,", "ramp=lambda progress: progress - 0.5,",
        {"terms: one name, sum, count": "weight of activity"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SABOTAGE)
def test_the_right_lines_fail(name, tmp_path):
    old, new, expected = SABOTAGE[name]
    assert EXAMPLE.count(old) == 1
    path = tmp_path / "broken_model.py"
    path.write_text(EXAMPLE.replace(old, new))
    spec = importlib.util.spec_from_file_location("broken_model", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["broken_model"] = module
    try:
        spec.loader.exec_module(module)
        results = check_model(module.create(vocab_size=17, width=16), raises=False)
    finally:
        sys.modules.pop("broken_model")
    broken = {result.promise: result.detail for result in results if not result.ok}
    assert set(broken) == set(expected)
    assert all(part in broken[promise] for promise, part in expected.items())


def test_terms_share_counts_and_ramps():
    """A function that several terms name is evaluated once, so that a program has it once."""
    calls = []

    def count(batch):
        calls.append("count")
        return jnp.float32(3.0)

    def ramp(progress):
        calls.append("ramp")
        return progress

    class Two(nnx.Module):
        terms = (
            Term("a", lambda out, batch: out, count, 0.5, ramp),
            Term("b", lambda out, batch: 2 * out, count, 2.0, ramp),
            Term("c", lambda out, batch: out, count),
        )

    model = Two()
    assert target_counts(model, {}) == {"a": 3.0, "b": 3.0, "c": 3.0}
    assert loss_weights(model, jnp.float32(0.5)) == {"a": 0.25, "b": 1.0}
    assert calls == ["count", "ramp"]
    assert loss_names(model) == ["a", "b"] and main_term(model) == "a"
    assert term_sums(model.terms, 1.0, {}) == {"a": 1.0, "b": 2.0, "c": 1.0}


def test_absent_labels_have_zero_sums_and_counts():
    terms = label_terms("stop", lambda batch: batch.get("stop"), weight=0.5)
    assert [term.name for term in terms] == ["stop", "stop_accuracy"]
    assert all(term.count({}) == 0.0 and term.sum(None, {}) == 0.0 for term in terms)


def test_traits_have_defaults():
    class Plain(nnx.Module):
        terms = token_terms()

    traits = traits_of(Plain())
    assert traits.step is None and traits.local_update is None and not traits.draws_by_row
    assert traits.main_term == main_term(Plain()) == "next_token"
    kernel = jax.eval_shape(lambda: nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
    assert traits_of(kernel) == traits


@pytest.mark.parametrize("name", ["rwkv", "mamba"])
def test_pallas_models_are_replicated_only(name):
    for kernel in ("xla", "pallas"):
        config = small_config(name, kernel=kernel)
        model = jax.eval_shape(lambda c=config: MODELS[name][1](c, rngs=nnx.Rngs(0)))
        assert traits_of(model).replicated_only == (kernel == "pallas")

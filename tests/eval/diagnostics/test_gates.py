"""Gates, with values on both sides of every bound."""

import json
import math

import numpy as np
import pytest

from eval.diagnostics import gates, states
from jaxmodels.data import ByteTokenizer, tokenizer_from_json


def test_control_tokens():
    tokenizer = tokenizer_from_json(json.dumps({"kind": "char", "characters": "abc"}))
    assert gates.control_tokens(tokenizer).outcome == "pass"
    verdict = gates.control_tokens(ByteTokenizer())
    assert verdict.outcome == "fail" and "<|pad|> is 7 tokens" in verdict.says

    class Same(ByteTokenizer):
        def encode(self, text):
            return np.zeros(1, np.int32)

    assert "share an id" in gates.control_tokens(Same()).says


def test_forward():
    logits = np.zeros((2, 3, 5), np.float32)
    assert gates.forward(logits, (2, 3, 5)).outcome == "pass"
    assert gates.forward(logits, (2, 3, 6)).outcome == "fail"
    logits[0, 1, 2] = np.nan
    verdict = gates.forward(logits, (2, 3, 5))
    assert verdict.outcome == "fail" and "1 of them" in verdict.says


@pytest.mark.parametrize(
    ("entropy", "outcome"),
    [(0.9, "fail"), (1.5, "warn"), (2.0, "pass"), (5.0, "pass"), (6.0, "warn"), (7.5, "fail")],
)
def test_entropy_at_start(entropy, outcome):
    verdict = gates.entropy_at_start(entropy, 32)
    assert verdict.outcome == outcome and f"{math.log(32):.2f}" in verdict.says


@pytest.mark.parametrize(
    ("norm", "outcome"),
    [
        (0.005, "fail"),
        (0.3, "warn"),
        (0.5, "pass"),
        (1.5, "pass"),
        (2.0, "warn"),
        (4.0, "warn"),
        (5.1, "fail"),
        (math.nan, "fail"),
    ],
)
def test_early_training_norms(norm, outcome):
    falling = np.linspace(5.0, 2.0, 100)
    assert gates.early_training(falling, [norm] * 100).outcome == outcome


def test_early_training_requires_a_falling_loss():
    assert gates.early_training(np.linspace(2.0, 5.0, 100), [1.0] * 100).outcome == "fail"
    assert gates.early_training([3.0] * 100, [1.0] * 100).outcome == "fail"
    assert gates.early_training([], []).outcome == "skip"


def evolution(*means):
    return states.evolution([np.array([[m]]) for m in means])


@pytest.mark.parametrize(
    ("means", "variance", "moves"),
    [
        ((0.0, 0.8), "pass", "pass"),
        ((0.5, 0.8), "warn", "pass"),
        ((0.8, 0.9), "fail", "pass"),
        ((0.2, 0.995), "pass", "fail"),
        ((0.2, 0.9995), "pass", "fail"),
    ],
)
def test_state_evolution_by_table_and_by_script(means, variance, moves):
    assert gates.cosine_variance(evolution(*means)).outcome == variance
    assert gates.movement(evolution(*means)).outcome == moves


@pytest.mark.parametrize(
    ("ratio", "outcome"), [(0.81, "pass"), (0.8, "warn"), (0.5, "warn"), (0.49, "fail")]
)
def test_low_rank_gate(ratio, outcome):
    verdict = gates.low_rank_gate(ratio, 3.0, 0.31)
    assert verdict.outcome == outcome and "0.31" in verdict.says and "collapse" in verdict.says


@pytest.mark.parametrize(
    ("share", "outcome"), [(0.09, "pass"), (0.1, "warn"), (0.3, "warn"), (0.31, "fail")]
)
def test_saturation_gate(share, outcome):
    assert gates.saturation_gate(share).outcome == outcome


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [
        (0.09, "fail"),
        (0.1, "warn"),
        (0.3, "pass"),
        (3.0, "pass"),
        (3.1, "warn"),
        (10.0, "warn"),
        (10.1, "fail"),
        (math.inf, "fail"),
        (math.nan, "fail"),
    ],
)
def test_balance(ratio, outcome):
    assert gates.balance(ratio).outcome == outcome


def test_suite_lists_absent_parts():
    results = {"a": {"x": 1.0}, "b": {}, "c": {"x": math.nan}, "d": [0.5], "e": "words"}
    assert gates.suite(results, ["a", "d", "e"]).outcome == "pass"
    verdict = gates.suite(results, ["a", "b", "c", "missing"])
    assert verdict.outcome == "fail" and "b, c, missing" in verdict.says
    brief = gates.suite(results, ["a", "d"], unasked=("e", "f"))
    assert (brief.outcome, brief.value) == ("skip", 2.0) and "not asked: e, f" in brief.says
    assert gates.suite(results, ["a", "b"], unasked=("e",)).outcome == "fail"


def test_scale_up_is_skipped_for_small_vocabularies():
    assert gates.scale_up(1.5, 97).outcome == "skip"
    assert gates.scale_up(6.4, 24576).outcome == "pass"
    assert gates.scale_up(6.5, 24576).outcome == "fail"


@pytest.mark.parametrize(
    ("correct", "asked", "outcome"),
    [
        (100, 1000, "fail"),
        (125, 1000, "fail"),  # 2.6 standard errors
        (150, 1000, "warn"),  # significant, below the margin
        (200, 1000, "pass"),
        (4, 20, "fail"),  # above the margin, not significant
    ],
)
def test_useful_memory(correct, asked, outcome):
    verdict = gates.useful_memory(correct, asked, 0.1)
    assert verdict.outcome == outcome and "chance 10.0%" in verdict.says


def test_overall_is_the_worst_outcome():
    def verdicts(*outcomes):
        return [gates.Verdict("x", outcome, None, "") for outcome in outcomes]

    assert gates.overall(verdicts("pass", "warn", "skip")) == "warn"
    assert gates.overall(verdicts("pass", "fail", "warn")) == "fail"
    assert gates.overall(verdicts("skip", "skip")) == "skip"
    assert gates.overall(verdicts("skip", "pass")) == "pass"

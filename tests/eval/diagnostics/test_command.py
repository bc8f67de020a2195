"""All diagnostics on small models, their files, and the command line."""

import json
import math
import types

import numpy as np
import pytest

from eval.diagnostics import look, page
from eval.diagnostics.__main__ import json_safe, main
from eval.diagnostics.reading import BLOCK, ROWS, excerpts, read
from eval.log import Log
from eval.report.document import Heading
from jaxmodels.data import Corpus, Document
from tests.eval.small_ground import TEXT, TOKENIZER, small_model


@pytest.fixture(scope="module")
def run():
    model = small_model()
    documents = (Document("text", TOKENIZER.encode(TEXT), None, {}),)
    corpus = Corpus("text", documents, documents, (), tokenizer=TOKENIZER, split="none")
    config = types.SimpleNamespace(model="groundthink", seed=0)
    return types.SimpleNamespace(model=model, corpus=corpus, config=config)


def test_watch_matches_the_forward_pass(run):
    tokens = excerpts(run.corpus.valid[0].tokens, ROWS, BLOCK, np.random.default_rng(0))
    hybrid, attention = look.watch(run.model, tokens, 0)
    state, _ = read(run.model, run.model.initial_state(ROWS), tokens)
    after = run.model.layer_state(state, 0)
    np.testing.assert_allclose(hybrid["rwkv_state"][-1], after.rwkv.wkv[:2], atol=1e-5)
    # The observed state is by head; its entries are those that the model carries.
    mamba = np.sort(hybrid["mamba_state"][-1].reshape(2, -1))
    np.testing.assert_allclose(mamba, np.sort(after.mamba.ssm[:2].reshape(2, -1)), atol=1e-5)
    assert attention.keys() == {"mixer_out"}
    assert hybrid["rwkv_out"].shape == (BLOCK, 2, 1, 16) and hybrid["write"].shape == (BLOCK, 2, 1)


@pytest.fixture(scope="module")
def result(run):
    rows = [
        {"split": "train", "step": step, "next_token": 5.0 - step, "grad_norm": 1.0}
        for step in range(4)
    ]
    amounts = look.Amounts(distances=(0, 16), rows=64, context=64, watched=64, words=16)
    found = look.diagnose(run, Log(None, rows=rows), amounts, lambda what: None)
    facts = {"model": "groundthink", "step": 3, "parameters": 9, "corpus": "text", "command": "x"}
    facts |= {"amounts": {"rows": 64}, "device": "cpu", "versions": {"jax": "0"}, "seconds": 1.0}
    return json_safe(facts | found)


def test_diagnose_covers_all_parts(result):
    assert result["missing"] == [] and set(look.PARTS) <= result.keys()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    rows = result["states"]["layers"]
    assert [(row["layer"], row["component"]) for row in rows] == [(0, "rwkv"), (0, "mamba")]
    assert all(row["output_variance"] > 0 for row in rows) and "skipped_writes" in rows[0]
    assert rows[1]["selection_variance"] > 0 and "selection_variance" not in rows[0]
    assert rows[0]["top5_gaussian"] > 0.7  # 8 x 8
    assert result["components"]["dominance"]["rises"].keys() >= {"rwkv", "mamba", "attention"}
    recall = result["probes"]["recall"]
    assert [r["distance"] for r in recall] == [0, 16]
    assert recall[0]["decoded"].keys() == {"rwkv", "mamba", "all"}
    # The token shift stores the last token, so the state right after the key contains it.
    assert recall[0]["decoded"]["all"]["accuracy"] > 0.15
    assert result["probes"]["poisoning"]["after_reset"]["noise"] == 0.0
    assert result["probes"]["forgetting"]["leakage"] == 0.0


def test_diagnose_reports_every_gate(result):
    names = [gate["gate"] for gate in result["gates"]]
    for start in ("G0", "G1", "G2", "G3 ", "G3.5", "G4", "G5", "useful memory", "phase shift"):
        assert any(name.startswith(start) for name in names), start
    outcomes = {gate["gate"]: gate["outcome"] for gate in result["gates"]}
    assert outcomes["G0 control tokens"] == outcomes["G1 forward"] == "pass"
    assert outcomes["G3 early training"] == outcomes["G4 suite"] == "pass"
    assert outcomes["G5 scale up"] == "skip"
    assert outcomes["useful memory at 16 tokens, answers"] == "fail"  # untrained
    assert result["overall"] == "fail"


def test_a_brief_look_does_not_pass_the_gate_of_the_whole_suite(run):
    amounts = look.Amounts(distances=(0,), rows=32, context=0, watched=16, brief=True)
    found = look.diagnose(run, Log(None, rows=[]), amounts, lambda what: None)
    [gate] = [gate for gate in found["gates"] if gate["gate"] == "G4 suite"]
    assert gate["outcome"] == "skip" and "not asked: identity, collapse" in gate["says"]


def test_page_contains_all_sections(result):
    text = page.compose(result, "run")
    for words in ("Gates", "Memory", "States", "Components", "Identity", "useful memory", "τ"):
        assert words in text
    assert text.count("<svg") == 3 and "http" not in text.replace("http://www.w3.org", "")


def test_attention_only_model_has_no_recurrent_probe(run):
    model = small_model(layout="attention", write_gate=False)
    text = run.corpus.valid[0].tokens
    tokens = excerpts(text, ROWS, BLOCK, np.random.default_rng(0))
    found, verdicts = look.states_of(model, tokens, 0)
    assert found == {"layers": [], "evolution": {}} and verdicts == []
    amounts = look.Amounts(distances=(8,), rows=32)
    rng = np.random.default_rng(0)
    probes, verdicts = look.probes_of(model, TOKENIZER, text, amounts, rng, lambda what: None)
    assert probes["tau_probe"] is None and probes["recall"][0]["decoded"] == {}
    assert [v.gate for v in verdicts] == ["useful memory at 8 tokens, answers"]
    rest = {"components": {"x": 1.0}, "probes": probes, "identity": [1.0], "collapse": {"x": 1.0}}
    gate = look.suite_of({"states": found} | rest, brief=False)
    assert gate.outcome == "pass" and "no recurrent state" in gate.says
    result = {"gates": [], "probes": probes, "states": found}
    assert Heading("Memory") in page.sections(result)


def test_command_line_on_a_model_without_layers(finished, tmp_path, capsys):
    out = tmp_path / "found.json"
    flags = [f"--workdir={finished}", "--checkpoint=last", "--rows=32", "--distances", "0", "8"]
    assert main([*flags, f"--json={out}"]) == 0
    found = json.loads(out.read_text())
    assert found["step"] == 12 and len(found["missing"]) == 2
    [gate] = [gate for gate in found["gates"] if gate["gate"] == "G4 suite"]
    assert gate["outcome"] == "fail" and "states, components" in gate["says"]
    assert found["probes"]["recall"][0]["decoded"].keys() == {"state"}
    assert (tmp_path / "found.html").read_text().startswith("<!doctype html>")
    assert "useful memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows=5"], "at least 30"),
        (["--distances", "-3"], "--distances must be at least 0"),
        (["--json=/nowhere/x.json"], "no folder /nowhere"),
        (["--workdir=/nowhere"], "--workdir=/nowhere: "),
    ],
)
def test_bad_flags_give_one_line_errors(finished, capsys, flags, message):
    assert main([f"--workdir={finished}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_json_safe():
    assert json_safe({"a": [math.inf, (1.0, math.nan)]}) == {"a": ["inf", [1.0, "nan"]]}

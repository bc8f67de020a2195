"""Fields of a config that choose what a model learns from text: spans, lexicons, kinds, labels."""

import itertools

import jax
import numpy as np
import pytest

from configs.groundthink import identity
from jaxmodels.data.readers.metacognition import KINDS
from jaxmodels.errors import UserError
from jaxmodels.models.contract import main_term, target_counts, traits_of
from jaxmodels.testing.lab import quick_jit
from tests.train.toy import toy_config
from train.config import apply_overrides, complete_config, load_config, validate_config
from train.loop import run
from train.model import build_model
from train.optim.build import resolve_warmup
from train.tasks import open_task
from train.tasks.task import check_labels

PRERNK = {
    "width": 8,
    "hidden_size": 8,
    "relation_size": 4,
    "symbol_slots": 2,
    "role_slots": 2,
    "abstraction_sizes": (8, 4),
}


def prernk_config(folder, format, **fields):
    data = {"paths": (f"Data/{folder}",), "format": format, "valid_fraction": 0.2}
    config = complete_config(
        {
            "model": "prernk",
            "model_config": PRERNK | fields,
            "steps": 2,
            "batch_size": 2,
            "seq_len": 16,
            "eval_every": 2,
            "data": data | {"test_fraction": 0.0},
        }
    )
    validate_config(config)
    return config


def batches(config, count):
    return [batch for batch, _ in zip(open_task(config).train, range(count), strict=False)]


def test_spans_from_a_config():
    """P-18: rows begin at lines of long documents, as `data.span_tokens` says."""
    config = prernk_config("HRDoc", "hrdoc")
    config.data.update({"mode": "packed", "carry_state": False, "span_tokens": 12})
    task = open_task(config)
    lines = bytes(task.corpus.train[0].tokens).split(b"\n")
    seen = 0
    for batch in batches(config, 4):
        for inputs, reset in zip(batch["inputs"], batch["reset"], strict=True):
            starts = [*np.flatnonzero(reset), len(inputs)]
            for a, b in itertools.pairwise(starts):
                piece = bytes(inputs[a:b].astype(np.uint8))
                head = piece.split(b"\n")[0]
                if len(head) >= 8:
                    seen += 1
                    assert len(piece) <= 12
                    assert any(line.startswith(head) for line in lines)
    assert seen > 4
    config.data.piece_tokens = 12
    with pytest.raises(UserError, match=r"config.data.span_tokens: .* set data.piece_tokens=0"):
        open_task(config)


def terms_of(config):
    """Return (model, sums, counts) of the terms on the first batch of training."""
    task = open_task(config)
    model = build_model(task.config)
    check_labels(task, traits_of(model).label_fields)
    batch = next(iter(task.train))
    _, sums = quick_jit(lambda model: model.loss_sums(model.initial_state(2), batch))(model)
    return model, sums, target_counts(model, batch)


def test_a_head_on_levels_learns_them():
    """P-18: `level_targets` reach a loss."""
    fields = {"abstraction_heads": (1,), "abstraction_vocab": 16}
    config = prernk_config("HRDoc", "hrdoc", head_targets="level_targets", **fields)
    _, sums, counts = terms_of(config)
    assert counts["head_1"] == 32.0 and sums["head_1"] > 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"abstraction_heads": (1,), "abstraction_vocab": 16},
            "no step_targets, on which head_1 is trained; its labels: level_targets",
        ),
        (
            {"symbolic": "cross_entropy", "relation_vocab": 256},
            "no relation_labels, on which symbolic is trained",
        ),
        ({"objective": "regression"}, "no values, on which regression is trained; its labels: lev"),
    ],
)
def test_a_loss_without_targets_is_refused(fields, message, tmp_path):
    """Nothing is trained on nothing in silence."""
    config = prernk_config("HRDoc", "hrdoc", **fields)
    with pytest.raises(UserError) as error:
        run(config, tmp_path / "w", quiet=True, devices=jax.devices()[:1])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_regression_from_a_config():
    """P-11: the level of each line of text is predicted as a number."""
    config = prernk_config("HRDoc", "hrdoc")
    model = ["objective=regression", "regression_targets=level_targets"]
    apply_overrides(config, [f"--config.model_config.{field}" for field in model])
    model, sums, counts = terms_of(config)
    assert main_term(model) == "regression" and "next_token" not in sums
    task = open_task(config)
    batch = next(iter(task.train))
    _, out = model(model.initial_state(2), batch["inputs"], batch["reset"])
    error = (np.asarray(out.values[..., 0]) - batch["level_targets"]) ** 2 * batch["weights"]
    np.testing.assert_allclose(sums["regression"], error.sum(), rtol=1e-4)
    assert counts["regression"] == batch["weights"].sum()


def test_a_lexicon_from_a_config(tmp_path):
    """P-20: relation labels follow the files of `data.lexicon`, not the built-in words."""
    (tmp_path / "text.txt").write_text("the blick daxes the wug .\n" * 40)
    (tmp_path / "verb_made.txt").write_text("daxes\n")
    config = prernk_config("HRDoc", "text")
    config.data.update({"paths": (str(tmp_path / "text.txt"),), "labels": "relations"})
    config.data.update({"label_slots": 2, "label_roles": 2, "carry_state": True})
    before = [batch["relation_labels"] for batch in batches(config, 4)]
    apply_overrides(config, [f'--config.data.lexicon=("{tmp_path}/verb_made.txt",)'])
    after = [batch["relation_labels"] for batch in batches(config, 4)]
    assert not any((labels >= 0).any() for labels in before)
    assert any((labels >= 0).any() for labels in after)


def test_the_phases_of_the_identity_curriculum_have_their_own_kinds():
    """G-29: mechanics to 20 %, reflection to 60 %, identity to 90 %, worldview to the end."""
    config = complete_config(identity.get_config())
    config.data.mixture.text.paths = ("Data/LL",)
    config.update({"steps": 20, "batch_size": 4, "seq_len": 64, "eval_every": 0})
    assert config.data.mixture_ends == (0.2, 0.6, 0.9, 1.0)
    validate_config(config)
    task = open_task(config)
    kinds = {source: fields.get("kinds", ()) for source, fields in config.data.mixture.items()}
    assert sorted(kind for chosen in kinds.values() for kind in chosen) == sorted(KINDS)
    weights = {kind: config.data.mixture[kind].weights for kind in KINDS}
    assert [max(range(4), key=weights[kind].__getitem__) for kind in KINDS] == [0, 1, 2, 3]
    own = {d.name.split(":")[0] for d in task.corpus.train if ":" in d.name}
    assert set(KINDS) <= own


def test_only_the_kinds_that_are_named_are_read():
    config = toy_config(data__paths=(), data__mode="windows", steps=10, eval_every=0)
    talk = {"paths": ("Data/metacognition",), "format": "metacognition", "weights": (1.0,) * 4}
    config.data.mixture = type(config)({"talk": talk | {"kinds": ("identity",)}})
    some = open_task(config).corpus
    config.data.mixture = type(config)({"talk": talk})
    everything = open_task(config).corpus
    texts = [sum(len(d) for d in corpus.train + corpus.valid) for corpus in (some, everything)]
    assert 0 < texts[0] < texts[1] / 2
    config.data.mixture = type(config)({"talk": talk | {"kinds": ("self",)}})
    with pytest.raises(UserError, match=r"config.data.mixture.talk: kinds: unknown 'self'"):
        open_task(config)


def test_warmup_from_the_size_of_the_model(tmp_path):
    """G-22: `optimizer.warmup_factor` replaces the number of steps."""
    config = toy_config(steps=2000)
    assert resolve_warmup(config).optimizer.warmup_steps == config.optimizer.warmup_steps
    config.optimizer.warmup_factor = 3.0
    size = sum(leaf.size for leaf in jax.tree.leaves(build_model(config)))
    want = round(3.0 * 667 * (size / 125e6) ** 0.5)
    assert resolve_warmup(config).optimizer.warmup_steps == want > 1
    config.optimizer.warmup_factor = 9.0
    with pytest.raises(UserError, match=r"config.optimizer.warmup_factor: must be 0 or in"):
        validate_config(config)


def test_shipped_configs_of_groundthink_are_valid():
    for name in ("cpu", "full", "identity"):
        validate_config(load_config(f"configs/groundthink/{name}.py"))

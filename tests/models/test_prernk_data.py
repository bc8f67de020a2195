"""PRERNK rejects labels that do not fit the config before training starts."""

from pathlib import Path

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.ops import losses
from train.config import complete_config
from train.loop import run

SIZES = {"vocab_size": 8, "width": 4, "hidden_size": 8, "abstraction_sizes": (8, 4)}
SIZES |= {"symbol_slots": 3, "role_slots": 2}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label_slots": 2}, "label_slots must be the model's 3"),
        ({"label_classes": 300}, "label_classes=300 must not exceed"),
        ({"seq_len": 3}, "relations_every=4 must not exceed seq_len=3"),
        ({}, None),
        ({"labels": "none", "label_slots": 2}, None),
    ],
)
def test_mismatched_labels_are_rejected(changes, says):
    model = jaxmodels.create(
        "prernk", **SIZES, symbolic="cross_entropy", relation_vocab=256, relations_every=4
    )
    data = {"format": "text", "labels": "relations", "label_slots": 3, "label_roles": 2}
    data |= {"label_classes": 256}
    data |= changes
    seq_len = data.pop("seq_len", 8)
    if says is None:
        model.check_data(ConfigDict(data), seq_len)
        return
    with pytest.raises(UserError, match=says):
        model.check_data(ConfigDict(data), seq_len)


@pytest.mark.parametrize(
    ("label", "fields"),
    [
        ("step_targets", {"abstraction_heads": (1,), "abstraction_vocab": 5}),
        ("relation_labels", {"fidelity": "probe", "relation_vocab": 5, "relations_every": 1}),
    ],
)
def test_corpus_labels_beyond_vocab_are_rejected(label, fields):
    data = ConfigDict({"labels": "none"})
    model = jaxmodels.create("prernk", **SIZES, **fields)
    model.check_data(data, 8)
    model.check_data(data, 8, {label: 5})
    with pytest.raises(UserError, match=rf"_vocab=5: the {label} of this text have 6 classes"):
        model.check_data(data, 8, {label: 6})
    jaxmodels.create("prernk", **SIZES).check_data(data, 8, {label: 6})  # nothing reads them


def test_label_beyond_vocab_has_unbounded_loss():
    """Past the last class the loss falls without bound, as no logit answers for the label."""
    logits, one = jnp.full((1, 5), -100.0), jnp.ones(1)
    assert losses.cross_entropy_sum(logits, jnp.array([4]), one) > 0.0
    assert losses.cross_entropy_sum(logits, jnp.array([5]), one) < -90.0


def test_training_rejects_mismatched_labels(tmp_path):
    """GSM8K has a class a step of the solution."""
    folder = Path(__file__).parents[2] / "Data" / "GSM8K"
    fields = SIZES | {"vocab_size": 256, "abstraction_heads": (0,), "abstraction_vocab": 2}
    data = {"paths": (str(folder),), "format": "gsm8k"}
    config = complete_config({"model": "prernk", "model_config": fields, "data": data})
    config.update(batch_size=8, seq_len=8)
    with pytest.raises(UserError, match=r"abstraction_vocab=2: the step_targets of this text have"):
        run(config, tmp_path / "w", quiet=True)
    assert not (tmp_path / "w").exists()

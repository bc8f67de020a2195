"""PRERNK tells an experiment whose labels do not fit it so, before training starts."""

import pytest
from ml_collections import ConfigDict

import jaxmodels
from jaxmodels.errors import UserError


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
def test_labels_that_do_not_fit_are_refused(changes, says):
    model = jaxmodels.create(
        "prernk",
        vocab_size=8,
        width=4,
        hidden_size=8,
        abstraction_sizes=(8, 4),
        symbol_slots=3,
        role_slots=2,
        symbolic="cross_entropy",
        relation_vocab=256,
        relations_every=4,
    )
    data = {"labels": "relations", "label_slots": 3, "label_roles": 2, "label_classes": 256}
    data |= changes
    seq_len = data.pop("seq_len", 8)
    if says is None:
        model.check_data(ConfigDict(data), seq_len)
        return
    with pytest.raises(UserError, match=says):
        model.check_data(ConfigDict(data), seq_len)

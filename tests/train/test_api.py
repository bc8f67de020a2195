"""Training from Python, and configs that match the model's defaults."""

import jax.numpy as jnp
import pytest

import jaxmodels
from jaxmodels.errors import UserError
from tests.train.corpus import small_text
from train.api import text_config, train_text_corpus
from train.config import differences, load_config
from train.io.checkpoint import load_model
from train.io.log import read_metrics
from train.model import build_model, resolve_vocab

SMALL = {
    "steps": 3,
    "batch_size": 8,
    "seq_len": 16,
    "eval_every": 0,
    "log_every": 3,
    "data.eval_tokens": 256,
    "model_config.width": 8,
    "model_config.hidden_size": 12,
    "model_config.symbol_slots": 3,
    "model_config.role_slots": 2,
    "model_config.relation_size": 4,
    "model_config.abstraction_sizes": (12, 6),
}


def test_experiment_builds_the_config_of_its_model():
    config = text_config("prernk", SMALL)
    model = build_model(resolve_vocab(config, 256))
    assert model.config.abstraction_sizes == (12, 6)
    assert (model.config.width, model.config.vocab_size, model.config.dtype) == (8, 256, "float32")
    assert (
        build_model(
            text_config("prernk", SMALL | {"model_config.vocab_size": 99})
        ).config.vocab_size
        == 99
    )


def test_shipped_config_lists_every_model_field():
    shipped, built = load_config("configs/prernk.py"), text_config("prernk")
    assert shipped.model_config.keys() == built.model_config.keys()
    shipped = resolve_vocab(shipped, 256)
    own = build_model(shipped).config
    assert jaxmodels.config_from_json(jaxmodels.config_to_json(own)) == own
    text = jaxmodels.config_to_json(own)
    assert '"format": 1' in text
    older = text.replace('"format": 1,', "")
    assert jaxmodels.config_from_json(older) == own
    for wrong in ("2", '"1"', "true"):
        with pytest.raises(UserError, match="config of format"):
            jaxmodels.config_from_json(text.replace('"format": 1', f'"format": {wrong}'))
    assert "model_config.width" not in differences(shipped, built)


def test_model_errors_are_one_line():
    with pytest.raises(UserError, match=r"did you mean 'model_config.hidden_size'"):
        text_config("prernk", {"model_config.hiden_size": 3})
    config = text_config("prernk", SMALL | {"model_config.abstraction_sizes": (5, 6)})
    with pytest.raises(UserError):
        build_model(resolve_vocab(config, 256))


def test_train_text_corpus_trains_and_reads_back(tmp_path):
    text = tmp_path / "small.txt"
    text.write_text(small_text())
    result = train_text_corpus(text, workdir=tmp_path / "run", changes=SMALL)
    assert result.status == "finished"
    assert 0 < read_metrics(tmp_path / "run")[0]["bits_per_byte"] < 9
    trained = load_model(tmp_path / "run")
    assert trained.step == 3
    _, out = trained.model(trained.model.initial_state(1), jnp.array([[1, 2, 3]]))
    assert out.logits.shape == (1, 3, 256)
    with pytest.raises(UserError, match="already holds a run"):
        train_text_corpus(text, workdir=tmp_path / "run", changes=SMALL)

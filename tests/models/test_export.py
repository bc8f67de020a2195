"""Whole models under `jax.export`, whose numbers of rows and tokens are symbols."""

import jax
import jax.numpy as jnp
import pytest

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from jaxmodels.testing.models import small_config

SYMBOLIC = [name for name in jaxmodels.MODELS if name != "hft"]


def traced(name, rows, tokens):
    """Return the logits of a call, as shapes."""
    model = jax.eval_shape(lambda: jaxmodels.create(small_config(name)))

    def call(model, tokens):
        whole = traits_of(model).solve is not None
        state = None if whole else model.initial_state(tokens.shape[0])
        return model(state, tokens)[1].logits

    return jax.eval_shape(call, model, jax.ShapeDtypeStruct((rows, tokens), jnp.int32))


@pytest.mark.parametrize("name", SYMBOLIC)
def test_symbolic_rows_and_tokens(name):
    """Traced only: tests/cells/test_export.py compares the numbers."""
    rows, tokens = jax.export.symbolic_shape("b, t")
    assert traced(name, rows, tokens).shape[:2] == (rows, tokens)


@pytest.mark.parametrize("sizes", ["b, 12", "2, t"])
def test_hft_names_what_it_cannot_read(sizes):
    with pytest.raises(UserError, match=r"^tokens: HFT reads blocks of known size, got the symb"):
        traced("hft", *jax.export.symbolic_shape(sizes))

"""Int8 weights: how they round, what stays float, decoding, folders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmodels
from jaxmodels import convert
from jaxmodels.cells.layers import Embedding, Int8, Linear
from jaxmodels.errors import UserError
from jaxmodels.quantized import is_quantized, num_bytes
from jaxmodels.testing.models import small_config
from jaxmodels.tree import flatten
from jaxmodels.tuning import learn_additions

rng = np.random.default_rng(0)


def array(*shape, scale=1.0):
    return jnp.asarray(rng.normal(0, scale, shape), jnp.float32)


def small(name):
    if name == "mamba/1":  # which has no heads
        return jaxmodels.create(name, width=32, num_layers=2, vocab_size=32)
    return jaxmodels.create(small_config(name, vocab_size=32))


def test_matmul_equals_float64():
    """x @ (scale q) in float32, against NumPy's float64 of the same integers."""
    layer = Linear(64, 48, rngs=nnx.Rngs(0))
    layer.kernel = Int8(array(64, 48), -2)
    x = array(5, 64)
    q, scale = np.float64(layer.kernel.values[...]), np.float64(layer.kernel.scale[...])
    want = np.float64(x) @ (q * scale)
    # Each of 64 products and sums is rounded to 2^-24 of at most about 10.
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(layer(x), want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", [(64, 48), (3, 64, 48)])
def test_rounding_is_half_a_step_of_each_channel(shape):
    kernel = array(*shape) * jnp.exp(3 * array(48)).reshape((1,) * (len(shape) - 1) + (48,))
    packed = Int8(kernel.at[..., 7].set(0.0), -2)
    assert packed.values.dtype == jnp.int8
    error = np.abs(np.float64(packed[...]) - np.float64(kernel.at[..., 7].set(0.0)))
    step = np.float64(packed.scale[...])
    assert packed.scale.shape == (*shape[:-2], 1, 48)
    assert (error <= 0.5001 * step).all()
    largest = np.abs(packed.values[...]).max(-2)
    assert (np.delete(largest, 7, -1) == 127).all()
    assert (error[..., 7] == 0).all()  # a channel of zeros


def test_rows_of_a_table():
    table = Embedding(32, 16, rngs=nnx.Rngs(0))
    whole = table.table[...]
    table.table = Int8(whole, -1)
    tokens = jnp.asarray([[3, 31, 0], [-1, 32, 5]])
    got = table(tokens)
    np.testing.assert_array_equal(got[0], table.table[...][tokens[0]])
    np.testing.assert_allclose(got[0], whole[tokens[0]], atol=float(table.table.scale[...].max()))
    assert np.isnan(got[1, :2]).all()
    assert not np.isnan(got[1, 2]).any()


@pytest.mark.parametrize("name", ["rwkv/7", "mamba/1", "mamba/2", "stack", "prernk", "rnk"])
def test_decoding(name):
    """`step` and the call of the int8 model agree, and differ little from the float model."""
    model = small(name)
    packed = jaxmodels.quantize(model)
    tokens = jnp.asarray(rng.integers(1, 32, (2, 9)), jnp.int32)

    @jax.jit
    def run(model):
        def body(state, token):
            state, out = model.step(state, token)
            return state, out.logits

        _, logits = jax.lax.scan(body, model.initial_state(2), tokens.T)
        _, out = model(model.initial_state(2), tokens)
        return logits.swapaxes(0, 1), out.logits

    with jax.default_matmul_precision("highest"):
        (float_step, _), (step, call) = run(model), run(packed)
    np.testing.assert_allclose(step, call, rtol=0, atol=1e-4)
    span = float(jnp.ptp(float_step))
    gap = float(jnp.abs(step - float_step).max())
    assert gap < 0.1 * span
    assert gap > 0 or span == 0


def test_what_stays_float():
    """Decays, steps, norms, gates' vectors, low-rank maps and small heads."""
    for name in ("rwkv/7", "mamba/1", "mamba/2", "stack", "groundthink", "rnk", "prernk"):
        model = jax.eval_shape(lambda name=name: jaxmodels.quantize(small(name)))
        for path, leaf in flatten(model).items():
            parts = path.split("/")
            if leaf.dtype == jnp.int8:
                assert parts[-1] == "values"
                assert parts[-2] in ("kernel", "table"), path
                assert not {"decay", "rate", "dt_proj", "norm", "gate_bias"} & set(parts), path
            else:
                assert leaf.dtype == jnp.float32, path
    names = flatten(jax.eval_shape(lambda: jaxmodels.quantize(small("mamba/1"))))
    assert {"layers/mixer/dt_proj/kernel", "layers/mixer/A_log", "layers/mixer/D"} <= names.keys()


def test_bytes():
    model = jaxmodels.create("mamba/2", width=128, num_layers=2, vocab_size=256)
    packed = jaxmodels.quantize(model)
    assert num_bytes(packed) < 0.28 * num_bytes(model)
    assert not is_quantized(model)  # a copy
    with pytest.raises(UserError, match="int8 weights already"):
        jaxmodels.quantize(packed)
    with pytest.raises(UserError, match="no matrices"):
        learn_additions(packed, rank=1)


def test_folder(tmp_path):
    model = jaxmodels.quantize(jaxmodels.create(small_config("rwkv/7")))
    convert.save(model, tmp_path / "m")
    again = convert.load(tmp_path / "m")
    assert jax.tree.structure(again) == jax.tree.structure(model)
    for name, x in flatten(model).items():
        assert flatten(again)[name].dtype == x.dtype
        np.testing.assert_array_equal(flatten(again)[name], x, err_msg=name)
    with pytest.raises(UserError, match="blinkdl has no place for int8 weights"):
        convert.save(model, tmp_path / "b.safetensors", to="blinkdl")

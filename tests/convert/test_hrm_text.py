"""`hrm_text`: logits of transformers at once and with a cache, round trips, what is refused."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxmodels
from jaxmodels import UserError, convert
from jaxmodels.cells.hrm import calls_with_gradient
from jaxmodels.convert.hrm_text import fields_of
from jaxmodels.convert.rows import abstract_model, filled_model, leaves_of
from jaxmodels.models.decoding import decode_step, generate, prefill
from jaxmodels.testing.lab import quick_jit
from tests.convert.common import GOLDENS, assert_refused, assert_same_bits, weights
from tests.convert.test_huggingface import folder_with

KIND = "hrm_text"
TINY = {"vocab_size": 9, "seq_len": 8, "width": 16, "head_size": 8, "mlp_multiple": 8}
TINY |= {"high_layers": 1, "low_layers": 1}


@pytest.fixture(scope="module")
def model():
    return convert.load(GOLDENS / KIND)


@pytest.fixture(scope="module")
def expected():
    return load_file(GOLDENS / KIND / "expected.safetensors")


def test_logits_of_whole_rows(model, expected):
    """1e-4 is what was asked for; float32 gives 1e-6 to 1e-5 on logits of up to 4."""
    read = quick_jit(lambda model, tokens, lengths: model(None, tokens, lengths=lengths)[1].logits)
    got = read(model, expected["tokens"], expected["lengths"])
    np.testing.assert_allclose(got, expected["logits"], rtol=0, atol=1e-4)
    # The prefix does count: without, the logits are others.
    causal = read(model, expected["tokens"], jnp.zeros(2, jnp.int32))
    assert np.abs(causal - expected["logits"]).max() > 0.1


def test_logits_with_a_cache(model, expected):
    """Prompts of 7 and 4 tokens in one batch, then token by token to the end of the row."""
    tokens, lengths = expected["tokens"], expected["lengths"]
    step = quick_jit(decode_step)
    cache, logits = quick_jit(prefill)(model, tokens, lengths)
    for count in range(12 - lengths.min()):
        at = lengths + count
        for row in np.flatnonzero(at <= 12):
            wanted = expected["decoded"][row, at[row] - 1]
            np.testing.assert_allclose(logits[row], wanted, rtol=0, atol=1e-4)
        token = tokens[np.arange(2), np.minimum(at, 11)]
        cache, logits = step(model, cache, token)
    assert cache.lengths.tolist() == [12, 12]


def test_generation_stops_at_the_eos_of_the_config(model, expected):
    """eos_token_id is 2: where its scores change places with those of the likeliest token."""
    assert model.config.eos_id == 2
    run = quick_jit(lambda model, tokens, lengths: generate(model, tokens, 4, lengths))
    answer = np.asarray(run(model, expected["tokens"], expected["lengths"]))
    assert answer.shape == (2, 4)
    likeliest = answer[0, 0]
    assert likeliest != 2
    order = np.arange(50)
    order[[2, likeliest]] = likeliest, 2
    again = convert.load(GOLDENS / KIND)
    again.head.kernel[...] = model.head.kernel[...][:, order]
    assert (run(again, expected["tokens"], expected["lengths"])[0] == 2).all()


def test_round_trip(model, tmp_path):
    folder = tmp_path / "again"
    convert.save(model, folder, to="huggingface")
    again = convert.load(folder)
    assert again.config == model.config
    assert_same_bits(weights(again), weights(model))
    original = load_file(GOLDENS / KIND / "model.safetensors")
    assert_same_bits(load_file(folder / "model.safetensors"), original)
    fields = json.loads((GOLDENS / KIND / "config.json").read_text())
    written = json.loads((folder / "config.json").read_text())
    for name, value in written.items():
        # Theirs trains through 1 and 2 calls of L, ours through the last 3; initializer_range has
        # no use where the embeddings' scale is given.
        if name in fields and name not in ("L_bp_cycles", "initializer_range", "pad_token_id"):
            assert value == fields[name], name
    assert written["L_bp_cycles"] == [0, 3]


def test_round_trip_of_a_native_model(tmp_path):
    """z_L, drawn by the seed, is written down; nothing else differs that a model computes with."""
    abstract = abstract_model(jaxmodels.make_config("hrlm/prefix_ar", **TINY, init_seed=3))
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(x.shape) for name, x in leaves_of(abstract).items()}
    model = filled_model(abstract, arrays)
    convert.save(model, tmp_path / "theirs", to="huggingface")
    again = convert.load(tmp_path / "theirs")
    assert_same_bits(weights(again), weights(model))
    lows = (x.initial_carry(1, 2).low for x in (again, model))
    np.testing.assert_array_equal(*lows)
    a, b = again.config, model.config
    assert a.mlp_size == b.mlp_size and a.embed_scale is b.embed_scale is None
    same = {"low_init": None, "init_seed": 3, "expansion": 4.0, "mlp_multiple": 8, "bp_warmup": 0.2}
    assert dataclasses.replace(a, **same) == b


@pytest.mark.parametrize("rule", ["last", "per_module"])
@pytest.mark.parametrize("calls", range(2, 13))
def test_calls_with_a_gradient(rule, calls):
    """L_bp_cycles has those of L for each cycle of H."""
    config = jaxmodels.make_config(
        "hrlm/prefix_ar", **TINY, grad_rule=rule, grad_calls=calls, high_cycles=3
    )
    flags = np.reshape(calls_with_gradient(config, calls), (3, 4))
    assert fields_of(config)["L_bp_cycles"] == flags[:, :3].sum(1).tolist()


def test_names_of_transformers(model, tmp_path):
    """One tensor for each matrix, as the modules of the library have them."""
    tensors = load_file(GOLDENS / KIND / "model.safetensors")
    for name in list(tensors):
        start, _, end = name.rpartition("attn.gqkv_proj")
        if start:
            parts = np.split(tensors.pop(name), 4)
            names = [f"{start}self_attn.{part}_proj{end}" for part in ("gate", "q", "k", "v")]
            tensors |= dict(zip(names, parts, strict=True))
        elif "gate_up_proj" in name:
            gate, up = np.split(tensors.pop(name), 2)
            tensors |= {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
        elif "attn.o_proj" in name:
            tensors[name.replace("attn", "self_attn")] = tensors.pop(name)
    assert len(tensors) == 3 + 4 * 8
    assert_same_bits(weights(convert.load(folder_with(tmp_path, KIND, tensors))), weights(model))
    del tensors["model.H_module.layers.1.self_attn.k_proj.weight"]
    assert_refused(
        folder_with(tmp_path, KIND, tensors), "H_module.layers.1.self_attn.k_proj", "missing"
    )


def test_tensors_that_do_not_fit(tmp_path):
    tensors = load_file(GOLDENS / KIND / "model.safetensors")
    for name in tensors:
        rest = {k: v for k, v in tensors.items() if k != name}
        assert_refused(folder_with(tmp_path, KIND, rest), f"'{name}'", "missing")
        wrong = np.zeros((3, 5), np.float32)
        assert_refused(folder_with(tmp_path, KIND, tensors | {name: wrong}), f"'{name}'", "(3, 5)")
    extra = {"extra": np.zeros(3, np.float32)}
    assert_refused(folder_with(tmp_path, KIND, tensors | extra), "unexpected", "'extra'")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_layers_per_stack": 3}, ("L_module", "2 layers", "3")),
        ({"num_layers_per_stack": None}, ("2 layers", "16")),
        ({"head_dim": 8}, ("head_dim", "hidden_size 32")),
        ({"num_key_value_heads": 1}, ("num_key_value_heads", "1")),
        ({"rope_parameters": {"rope_type": "yarn"}}, ("rope_parameters", "'default'")),
        ({"rope_parameters": {"rope_theta": "big"}}, ("rope_theta", "'big'")),
        ({"hidden_act": "gelu"}, ("hidden_act", "'silu'")),
        ({"attention_bias": True}, ("attention_bias",)),
        ({"mlp_bias": True}, ("mlp_bias",)),
        ({"prefix_lm": False}, ("prefix_lm",)),
        ({"tie_word_embeddings": True}, ("tie_word_embeddings",)),
        ({"eos_token_id": [2, 3]}, ("eos_token_id",)),
        ({"L_bp_cycles": "all"}, ("L_bp_cycles",)),
        ({"H_cycles": 10**6}, ("H_cycles",)),
        ({"intermediate_size": 64}, ("mlp.gate_up_proj", "(96, 32)", "(128, 32)")),
        ({"hidden_size": "32"}, ("'hidden_size'", "expected int")),
        ({"rms_norm_eps": -1.0}, ("'rms_norm_eps'",)),
    ],
)
def test_configs_that_do_not_fit(fields, words, tmp_path):
    assert_refused(folder_with(tmp_path, KIND, **fields), *words)


def test_fields_of_earlier_files(model, tmp_path):
    """Fields written by the converter of sapientinc/HRM-Text, and defaults of transformers."""
    earlier = {"num_layers_per_stack": None, "num_key_value_heads": 2}
    earlier |= {"rope_parameters": None, "rope_theta": 500, "embedding_scale": None}
    earlier |= {"L_bp_cycles": None, "L_bp_steps": [0, 3], "H_cycles": None, "L_cycles": None}
    for layers in (2, 4):  # of each module, or of both
        earlier["num_hidden_layers"] = layers
        again = convert.load(folder_with(tmp_path, KIND, **earlier, eos_token_id=[2]))
        assert again.config == model.config
        assert_same_bits(weights(again), weights(model))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recurrent": False}, ("recurrent=False",)),
        ({"norm": "post"}, ("norm='post'", "'pre'")),
        ({"head_gate": False}, ("head_gate=False",)),
        ({"inject": True}, ("inject=True",)),
        ({"shared": True}, ("shared=True",)),
        ({"window": 3}, ("window=3",)),
        ({"mask_pad": True}, ("mask_pad=True",)),
        ({"low_layers": 2}, ("low_layers 2", "high_layers 1")),
    ],
)
def test_unsupported_models_are_refused(changes, words):
    config = jaxmodels.make_config("hrlm/prefix_ar", **TINY | changes)
    with pytest.raises(UserError) as caught:
        fields_of(config)
    for word in words:
        assert word in str(caught.value)


def test_other_modes_are_refused_and_nothing_is_written(tmp_path):
    model = abstract_model(jaxmodels.make_config("hrm/trm_sudoku"))
    with pytest.raises(UserError, match="mode='grid' is not supported by hrm_text"):
        convert.save(model, tmp_path / "new", to="huggingface")
    assert not list(tmp_path.iterdir())

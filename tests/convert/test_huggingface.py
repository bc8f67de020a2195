"""Hugging Face folders: logits and states of transformers, round trips, malformed folders."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxmodels import UserError, convert
from tests.convert.common import (
    GOLDENS,
    assert_refused,
    assert_same_bits,
    by_call,
    by_step,
    rwkv_model,
    weights,
)
from tests.convert.torch_files import write_torch

KINDS = ("rwkv", "mamba", "mamba2")


@pytest.fixture(scope="module", params=KINDS)
def golden(request):
    """Return (kind, model, expected arrays)."""
    folder = GOLDENS / request.param
    return request.param, convert.load(folder), load_file(folder / "expected.safetensors")


@pytest.mark.parametrize("run", [by_call, by_step], ids=["call", "step"])
def test_logits_and_states(golden, run):
    """1e-4 is what was asked for; float32 gives 1e-6 to 1e-5 on logits of 0.6."""
    kind, model, expected = golden
    state, logits = run(model, expected["tokens"])
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-4)
    state = jax.tree.map(lambda x: np.asarray(x.swapaxes(0, 1)), state)  # (layers, batch, ...)
    if kind == "rwkv":
        wkv = state.time.wkv
        pairs = {
            "channel_shift": state.channel,
            "time_shift": state.time.shift,
            # The exponent is any that keeps the sums in range; what they stand for is one.
            "numerator": wkv.p * np.exp(wkv.o - expected["exponent"]),
            "denominator": wkv.q * np.exp(wkv.o - expected["exponent"]),
        }
    else:
        # Theirs keeps one input more, and the state with its axes the other way.
        pairs = {"conv": np.concatenate([expected["conv"][..., :1], state.conv.swapaxes(2, 3)], 3)}
        ssm = state.ssm.swapaxes(2, 3) if kind == "mamba" else state.ssm.swapaxes(3, 4)
        pairs["recurrent"] = ssm.reshape(expected["recurrent"].shape)
    for name, got in pairs.items():
        np.testing.assert_allclose(got, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_round_trip(golden, tmp_path):
    kind, model, _ = golden
    folder = tmp_path / "again"
    convert.save(model, folder, to="huggingface")
    again = convert.load(folder)
    assert again.config == model.config
    assert_same_bits(weights(again), weights(model))
    written = load_file(folder / "model.safetensors")
    original = load_file(GOLDENS / kind / "model.safetensors")
    for name in [name for name in original if "feed_forward.time_mix" in name]:
        # 1 - (1 - x) drops what is below the last bit of 1.
        np.testing.assert_allclose(written.pop(name), original.pop(name), rtol=0, atol=2**-24)
    assert_same_bits(written, original)
    fields = json.loads((GOLDENS / kind / "config.json").read_text())
    for name, value in json.loads((folder / "config.json").read_text()).items():
        # rescale_every is for float16; the rest has the same value, or the library's default.
        if name in fields and name != "rescale_every":
            limit = [0.0, float("inf")]
            assert value == (limit if name == "time_step_limit" else fields[name]), name


def folder_with(tmp_path, kind, tensors=None, **fields):
    """A copy of a golden folder with other tensors or fields; a field None is left out."""
    folder = tmp_path / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = json.loads((GOLDENS / kind / "config.json").read_text()) | fields
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(GOLDENS / kind / "model.safetensors") if tensors is None else tensors
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_do_not_fit(kind, tmp_path):
    tensors = load_file(GOLDENS / kind / "model.safetensors")
    for name in tensors:
        rest = {k: v for k, v in tensors.items() if k != name}
        assert_refused(folder_with(tmp_path, kind, rest), f"'{name}'", "missing")
        wrong = np.zeros((3, 5), np.float32)
        assert_refused(folder_with(tmp_path, kind, tensors | {name: wrong}), f"'{name}'", "(3, 5)")
    extra = {"extra": np.zeros(3, np.float32)}
    assert_refused(folder_with(tmp_path, kind, tensors | extra), "unexpected", "'extra'")


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("rwkv", {"model_type": "llama"}, ("model_type", "'llama'")),
        ("rwkv", {"model_type": ["rwkv"]}, ("model_type", "['rwkv']")),
        ("rwkv", {"vocab_size": None}, ("'vocab_size'", "missing")),
        ("rwkv", {"vocab_size": 49}, ("embeddings.weight", "(50, 32)", "(49, 32)")),
        ("rwkv", {"hidden_size": "32"}, ("'hidden_size'", "expected int")),
        ("rwkv", {"hidden_size": -32}, ("'hidden_size'", "-32")),
        ("rwkv", {"hidden_size": 10**12}, ("'hidden_size'", "1000000000000")),
        ("mamba", {"layer_norm_epsilon": -1.0}, ("'layer_norm_epsilon'", "-1.0")),
        ("mamba2", {"layer_norm_epsilon": float("nan")}, ("'layer_norm_epsilon'", "nan")),
        ("rwkv", {"num_hidden_layers": 3}, ("2 layers", "num_hidden_layers", "3")),
        ("rwkv", {"num_hidden_layers": 10**9}, ("num_layers must be at most 10,000",)),
        ("rwkv", {"attention_hidden_size": 64}, ("attention_hidden_size",)),
        ("rwkv", {"intermediate_size": 64}, ("feed_forward.key.weight", "(64, 32)")),
        ("rwkv", {"layer_norm_epsilon": 1e-3}, ("layer_norm_epsilon",)),
        ("rwkv", {"tie_word_embeddings": True}, ("tie_word_embeddings",)),
        ("mamba", {"use_bias": True}, ("use_bias",)),
        ("mamba", {"use_conv_bias": False}, ("use_conv_bias",)),
        ("mamba", {"hidden_act": "gelu"}, ("hidden_act", "'silu'")),
        ("mamba", {"time_step_rank": 2.5}, ("'time_step_rank'", "expected int")),
        ("mamba", {"state_size": 4}, ("mixer.A_log", "(64, 8)", "(64, 4)")),
        ("mamba", {"tie_word_embeddings": False}, ("'lm_head.weight'", "missing")),
        ("mamba2", {"tie_word_embeddings": True}, ("'lm_head.weight'", "tie_word_embeddings")),
        ("mamba2", {"num_heads": 5}, ("num_heads", "5")),
        ("mamba2", {"n_groups": 3}, ("groups",)),
        ("mamba2", {"time_step_limit": [0.0, 0.1]}, ("time_step_limit", "0.1")),
        ("mamba2", {"time_step_limit": "wide"}, ("time_step_limit", "two numbers")),
    ],
)
def test_configs_that_do_not_fit(kind, fields, words, tmp_path):
    assert_refused(folder_with(tmp_path, kind, **fields), *words)


def test_missing_fields_have_the_defaults_of_transformers(tmp_path):
    folder = folder_with(tmp_path, "rwkv", attention_hidden_size=None, layer_norm_epsilon=None)
    assert convert.load(folder).config.channel_size == 96
    folder = folder_with(tmp_path, "mamba", expand=None, conv_kernel=None, use_bias=None)
    assert_same_bits(weights(convert.load(folder)), weights(convert.load(GOLDENS / "mamba")))
    folder = folder_with(tmp_path, "mamba2", time_step_limit=[0.0, float("inf")])
    assert_same_bits(weights(convert.load(folder)), weights(convert.load(GOLDENS / "mamba2")))


def test_names_of_earlier_files(tmp_path):
    """`embedding` for `embeddings`; a tied head written out."""
    tensors = load_file(GOLDENS / "mamba" / "model.safetensors")
    table = tensors.pop("backbone.embeddings.weight")
    tensors |= {"backbone.embedding.weight": table, "lm_head.weight": table}
    folder = folder_with(tmp_path, "mamba", tensors)
    assert_same_bits(weights(convert.load(folder)), weights(convert.load(GOLDENS / "mamba")))


HEADS = ("lm_head.weight", "head.weight")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "inner", "own."])
@pytest.mark.parametrize("kind", [*KINDS, "hrm_text"])
def test_names_under_another_prefix(kind, wrapper, tmp_path):
    """Wrappers around the model; the inner model alone, or under a name of the wrapper's own."""
    tensors = load_file(GOLDENS / kind / "model.safetensors")
    inner = {"rwkv": "rwkv.", "hrm_text": "model."}.get(kind, "backbone.")
    if wrapper in ("inner", "own."):
        new = "" if wrapper == "inner" else wrapper
        renamed = {
            x if x in HEADS else x.replace(inner, new, 1): array for x, array in tensors.items()
        }
    else:
        renamed = {wrapper + x: array for x, array in tensors.items()}
    folder = folder_with(tmp_path, kind, renamed)
    assert_same_bits(weights(convert.load(folder)), weights(convert.load(GOLDENS / kind)))
    name = next(x for x in renamed if ".1." in x and x.endswith("weight"))
    folder = folder_with(tmp_path, kind, renamed | {name: np.zeros((3, 5), np.float32)})
    assert_refused(folder, f"{name!r}", "(3, 5)")  # under its name in the file


def test_prefixes_that_do_not_settle(tmp_path):
    """Two models in one file, none, and names that would fall together."""
    tensors = load_file(GOLDENS / "mamba" / "model.safetensors")
    both = tensors | {"ema." + name: array for name, array in tensors.items()}
    assert_refused(folder_with(tmp_path, "mamba", both), "2 models", "'backbone.', 'ema.backbone.'")
    other = {name.replace("layers", "blocks"): array for name, array in tensors.items()}
    first = "'backbone.layers.0.norm.weight'"
    assert_refused(folder_with(tmp_path, "mamba", other), first, "missing", "backbone.blocks.")
    wrapped = {"module." + name: array for name, array in tensors.items()}
    extra = {"backbone.norm_f.weight": tensors["backbone.norm_f.weight"]}
    assert_refused(folder_with(tmp_path, "mamba", wrapped | extra), "are the same")
    one = {name: array for name, array in wrapped.items() if ".1." not in name}
    assert_refused(folder_with(tmp_path, "mamba", one), "1 layers", "num_hidden_layers", "2")


def test_a_head_that_differs_names_what_ties_it(tmp_path):
    """config.json, or the default of the library if the field is not in it."""
    tensors = load_file(GOLDENS / "mamba" / "model.safetensors")
    other = tensors | {"lm_head.weight": tensors["backbone.embeddings.weight"] + 1}
    for value, words in ((True, "is true in config.json"), (None, "by default, as it is not in")):
        folder = folder_with(tmp_path, "mamba", other, tie_word_embeddings=value)
        assert_refused(folder, "'lm_head.weight' differs", "tie_word_embeddings", words)


def test_weights_of_torch(tmp_path):
    """pytorch_model.bin, in one file and in shards; model.safetensors goes first."""
    folder = folder_with(tmp_path, "mamba2")
    tensors = load_file(folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_text("damaged")
    convert.load(folder)
    (folder / "model.safetensors").unlink()
    assert_refused(folder, "pytorch_model.bin", "not a complete file of torch.save")
    write_torch(folder / "pytorch_model.bin", tensors)
    expected = weights(convert.load(GOLDENS / "mamba2"))
    assert_same_bits(weights(convert.load(folder)), expected)
    (folder / "pytorch_model.bin").unlink()
    places = {}
    for part in (0, 1):
        name = f"pytorch_model-0000{part + 1}-of-00002.bin"
        shard = dict(list(tensors.items())[part::2])
        write_torch(folder / name, shard, protocol=4)
        places |= dict.fromkeys(shard, name)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert_same_bits(weights(convert.load(folder)), expected)
    index.write_text(json.dumps({"weight_map": places | {"lm_head.weight": "gone.bin"}}))
    assert_refused(folder, "gone.bin")


@pytest.fixture
def sharded(tmp_path):
    """Return (folder, index) of the golden mamba2, sharded into two files."""
    folder = folder_with(tmp_path, "mamba2")
    (folder / "model.safetensors").unlink()
    tensors = load_file(GOLDENS / "mamba2" / "model.safetensors")
    index = {"metadata": {}, "weight_map": {}}
    for part in (0, 1):
        name = f"model-0000{part + 1}-of-00002.safetensors"
        shard = {k: v for i, (k, v) in enumerate(tensors.items()) if i % 2 == part}
        save_file(shard, folder / name)
        index["weight_map"] |= {k: name for k in shard}
    return folder, index


def test_sharded(sharded):
    folder, index = sharded
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert_same_bits(weights(convert.load(folder)), weights(convert.load(GOLDENS / "mamba2")))

    path.write_text(json.dumps({"weight_map": 3}))
    assert_refused(folder, "weight_map")
    places = index["weight_map"]
    path.write_text(json.dumps({"weight_map": places | {"lm_head.weight": "../other"}}))
    assert_refused(folder, "plain file name")
    path.write_text(json.dumps({"weight_map": places | {"lm_head.weight": "gone.safetensors"}}))
    assert_refused(folder, "gone.safetensors")
    path.write_text(json.dumps({"weight_map": {k: v for k, v in places.items() if k[0] != "l"}}))
    assert_refused(folder, "'lm_head.weight'", "not in the index")
    path.write_text("{")
    assert_refused(folder, "not valid JSON")


def test_folders_without_weights(tmp_path):
    folder = folder_with(tmp_path, "mamba")
    (folder / "model.safetensors").write_bytes(b"")
    assert_refused(folder, "not a complete safetensors file")
    (folder / "model.safetensors").unlink()
    assert_refused(folder, "model.safetensors")
    (folder / "config.json").write_text("[]")
    assert_refused(folder, "config.json")
    (folder / "config.json").write_text("{}")
    assert_refused(folder, "'model_type'")
    (folder / "config.json").unlink()
    assert_refused(folder, "config.json")


def test_unsupported_models_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"RWKV-7 is not in transformers"):
        convert.save(rwkv_model(7), tmp_path / "out", to="huggingface")
    assert not list(tmp_path.iterdir())

"""GGUF files of Llama-type models: logits of the definition, quantization, tokenizers, errors."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import convert
from jaxmodels.convert.__main__ import main
from jaxmodels.data.tokenizers.folder import read_tokenizer
from jaxmodels.errors import UserError

gguf = pytest.importorskip("gguf")  # an extra that is not locked

WIDTH, HEADS, KV_HEADS, MLP, LAYERS, VOCAB, BASE = 64, 4, 2, 96, 2, 32, 1000.0
TOKENS = ["<end>", *"abcdefgh0123456789", "ab", "Ġ", "Ġa", *"ijklmnopqr"]
MERGES = ["a b", "Ġ a"]


def tensors(tied):
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (VOCAB, WIDTH), "output_norm": (WIDTH,)}
    shapes |= {} if tied else {"output": (VOCAB, WIDTH)}
    kv = WIDTH // HEADS * KV_HEADS
    for i in range(LAYERS):
        own = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH)}
        own |= {"attn_k": (kv, WIDTH), "attn_v": (kv, WIDTH), "attn_output": (WIDTH, WIDTH)}
        own |= {"ffn_gate": (MLP, WIDTH), "ffn_up": (MLP, WIDTH), "ffn_down": (WIDTH, MLP)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in own.items()}
    draw = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return {f"{n}.weight": x * (0.3 if x.ndim > 1 else 1.0) for n, x in draw.items()}


def write(path, arrays, architecture="llama", kind=None, **changes):
    writer = gguf.GGUFWriter(path, architecture)
    fields = {"context_length": 16, "embedding_length": WIDTH, "block_count": LAYERS}
    fields |= {"feed_forward_length": MLP, "attention.head_count": HEADS}
    fields |= {"attention.head_count_kv": KV_HEADS} | changes
    for name, value in fields.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.rope.freq_base", BASE)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, *[1] * (len(TOKENS) - 1)])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(0)
    for name, x in arrays.items():
        if kind is None or x.ndim == 1:
            writer.add_tensor(name, x)
        else:
            writer.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def norm(x, scale):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale


def turned(x):
    """Rotate the pairs (2 i, 2 i + 1) of x (T, heads, N), as llama.cpp does."""
    n = x.shape[-1]
    angle = np.arange(len(x))[:, None] * BASE ** (-np.arange(0, n, 2) / n)
    turn = np.exp(1j * angle)[:, None]
    pairs = (x[..., ::2] + 1j * x[..., 1::2]) * turn
    return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def definition(arrays, tokens):
    """Return the logits (T, V) of a Llama on the file's own tensors, float64."""
    w = {name.removesuffix(".weight"): x.astype(np.float64) for name, x in arrays.items()}
    x, time = w["token_embd"][tokens], len(tokens)
    for i in range(LAYERS):
        own = {name.split(".")[2]: m for name, m in w.items() if name.startswith(f"blk.{i}.")}
        h = norm(x, own["attn_norm"])
        q, k, v = (
            (h @ own[f"attn_{n}"].T).reshape(time, -1, WIDTH // HEADS) for n in ("q", "k", "v")
        )
        q, k = turned(q), np.repeat(turned(k), HEADS // KV_HEADS, 1)
        scores = np.einsum("thn,shn->hts", q, k) / np.sqrt(WIDTH // HEADS)
        scores = np.where(np.tri(time, dtype=bool), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        y = np.einsum("hts,shn->thn", p, np.repeat(v, HEADS // KV_HEADS, 1))
        x = x + y.reshape(time, -1) @ own["attn_output"].T
        h = norm(x, own["ffn_norm"])
        gate = h @ own["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ own["ffn_up"].T)) @ own["ffn_down"].T
    return norm(x, w["output_norm"]) @ w.get("output", w["token_embd"]).T


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_the_definition(tied, tmp_path):
    arrays = tensors(tied)
    model = convert.load(write(tmp_path / "m.gguf", arrays))
    tokens = np.random.default_rng(1).integers(0, VOCAB, 9)
    _, out = model(model.initial_state(1), jnp.asarray(tokens)[None])
    np.testing.assert_allclose(out.logits[0], definition(arrays, tokens), rtol=1e-3, atol=1e-3)
    assert model.config.window == 16 and (model.head is None) == tied


def test_quantized_blocks_are_near_what_they_stand_for(tmp_path):
    arrays, kind = tensors(True), gguf.GGMLQuantizationType.Q8_0
    model = convert.load(write(tmp_path / "m.gguf", arrays, kind=kind))
    table = arrays["token_embd.weight"]
    np.testing.assert_allclose(model.embed.table[...], table, atol=np.abs(table).max() / 200)
    assert (np.asarray(model.embed.table[...]) != table).mean() > 0.5


def test_the_tokenizer_of_a_file_goes_beside_the_weights(tmp_path, capsys):
    source = write(tmp_path / "m.gguf", tensors(True))
    assert not main([str(source), str(tmp_path / "new")])
    assert "tokenizer.json, tokenizer_config.json" in capsys.readouterr().out
    tokenizer = read_tokenizer(tmp_path / "new")
    ids = [TOKENS.index(t) for t in ("ab", "Ġa", "1", "2", "<end>")]
    assert list(tokenizer.encode("ab a12<end>")) == ids
    assert tokenizer.decode(ids[:-1]) == "ab a12"


def test_files_that_do_not_fit_get_one_line(tmp_path):
    arrays = tensors(True)
    whole = write(tmp_path / "whole.gguf", arrays)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:-5000])
    less = {name: x for name, x in arrays.items() if "1.ffn_gate" not in name}
    kv = {"attention.head_count_kv": 3}
    for path, says in (
        (cut, "damaged"),
        (write(tmp_path / "a.gguf", arrays, architecture="gemma"), "architecture 'gemma'"),
        (write(tmp_path / "b.gguf", less), r"blk\.1\.ffn_gate\.weight' is missing"),
        (write(tmp_path / "c.gguf", arrays, **kv), "kv_heads=3 must divide the 4 heads"),
        (write(tmp_path / "d.gguf", arrays, block_count=3), r"blk\.2.*is missing"),
        (write(tmp_path / "e.gguf", arrays, **{"rope.dimension_count": 8}), "8 of 16 channels"),
    ):
        with pytest.raises(UserError, match=says) as error:
            convert.load(path)
        assert "\n" not in str(error.value)

"""Writes the reference outputs that `tests/convert` compares with.

Small models with random weights are built, saved and run by PyPI `transformers` (torch on a CPU).
Not needed to run the tests. From the repository's folder:

    python3 -m venv ENV
    ENV/bin/pip install torch==2.13.0 transformers==5.24.0 safetensors==0.8.0
    ENV/bin/python tests/goldens/make.py                     # writes all anew, or those named
    ENV/bin/python tests/goldens/make.py --check mamba DIR   # a folder written by jaxmodels.convert

mamba, mamba2, rwkv hold config.json and model.safetensors as `save_pretrained` writes them, and
expected.safetensors: tokens int32 (2, 70), logits float32 (2, 70, vocab), and the states of all
layers after the last token; but hrm_text tokens (2, 12), the lengths of the prefixes, logits of the
rows read at once, and decoded: with a cache, from the end of the prefix on (0 before it). blinkdl
holds a state dict of RWKV-4 as `torch.save` writes it, in several types and layouts, and the same
in safetensors, in pickle protocol 4, and as a whole module.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HrmTextConfig,
    HrmTextForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

HERE = Path(__file__).parent
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}
MODELS = {
    "mamba": (MambaForCausalLM, MambaConfig(**SIZES, state_size=8, time_step_rank=3)),
    "mamba2": (
        Mamba2ForCausalLM,
        Mamba2Config(**SIZES, state_size=16, num_heads=4, head_dim=16, n_groups=2, chunk_size=16),
    ),
    "hrm_text": (
        HrmTextForCausalLM,
        HrmTextConfig(
            **SIZES,
            intermediate_size=48,
            num_attention_heads=2,
            head_dim=16,
            max_position_embeddings=12,
            initializer_range=0.2,
            eos_token_id=2,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        ),
    ),
    "rwkv": (RwkvForCausalLM, RwkvConfig(**SIZES, intermediate_size=96)),
}


def shake(model) -> None:
    """Moves every parameter, so that none is 0 or 1 throughout.

    Mamba's projections and time steps also grow, as its state hardly matters at initialization.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.1 if parameter.ndim == 1 else 0.3 / math.sqrt(parameter.shape[-1])
            parameter.add_(scale * torch.randn_like(parameter))
            if "in_proj" in name or "x_proj" in name:
                parameter.mul_(3.0)
            if "dt_proj.bias" in name or "dt_bias" in name:
                parameter.add_(3.0)
            if "z_L_init" in name:
                parameter.mul_(10.0)


def states_of(name: str, out) -> dict[str, torch.Tensor]:
    """The states after the last token, (layers, batch, ...)."""
    if name == "rwkv":
        names = ("channel_shift", "time_shift", "numerator", "denominator", "exponent")
        return {n: s.permute(2, 0, 1) for n, s in zip(names, out.state, strict=True)}
    layers = out.cache.layers
    return {
        "conv": torch.stack([layer.conv_states[0] for layer in layers]),
        "recurrent": torch.stack([layer.recurrent_states[0] for layer in layers]),
    }


def make(name: str) -> None:
    """Writes the folder of a model anew."""
    model_class, config = MODELS[name]
    torch.manual_seed(0)
    model = model_class(config).float().eval()
    shake(model)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == "hrm_text":
        tensors = answered(model)
    else:
        tokens = torch.randint(0, config.vocab_size, (2, 70))
        with torch.no_grad():
            out = model(tokens, use_cache=True)
        tensors = {"tokens": tokens.int(), "logits": out.logits, **states_of(name, out)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    print(name, json.dumps(sizes), f"logits {tensors['logits'].std().item():.2f}")


def answered(model) -> dict[str, torch.Tensor]:
    """Logits of rows whose prefixes differ in length, read at once and token by token."""
    tokens, lengths = torch.randint(0, model.config.vocab_size, (2, 12)), torch.tensor([7, 4])
    kinds = (torch.arange(12)[None] < lengths[:, None]).int()
    with torch.no_grad():
        logits = model(tokens, token_type_ids=kinds, use_cache=False).logits
        decoded = torch.zeros_like(logits)
        for row, length in enumerate(lengths.tolist()):
            one = tokens[row : row + 1]
            out = model(one[:, :length], token_type_ids=kinds[row : row + 1, :length])
            decoded[row, length - 1] = out.logits[0, -1]
            for at in range(length, 12):
                out = model(one[:, at : at + 1], cache=out.cache)
                decoded[row, at] = out.logits[0, -1]
    integers = {"tokens": tokens.int(), "lengths": lengths.int()}
    return integers | {"logits": logits, "decoded": decoded}


def make_blinkdl() -> None:
    """A one-layer RWKV-4 of width 8, each tensor stored in its own way."""
    torch.manual_seed(0)
    c, hidden, vocab = 8, 12, 11
    shapes = {"emb.weight": (vocab, c), "head.weight": (vocab, c)}
    for norm in ("blocks.0.ln0", "blocks.0.ln1", "blocks.0.ln2", "ln_out"):
        shapes |= {f"{norm}.weight": (c,), f"{norm}.bias": (c,)}
    for name in ("att.key", "att.value", "att.receptance", "att.output", "ffn.receptance"):
        shapes[f"blocks.0.{name}.weight"] = (c, c)
    shapes |= {"blocks.0.ffn.key.weight": (hidden, c), "blocks.0.ffn.value.weight": (c, hidden)}
    shapes |= {"blocks.0.att.time_decay": (c,), "blocks.0.att.time_first": (c,)}
    for name in ("att.time_mix_k", "att.time_mix_v", "att.time_mix_r"):
        shapes[f"blocks.0.{name}"] = (1, 1, c)
    shapes |= {f"blocks.0.ffn.time_mix_{m}": (1, 1, c) for m in "kr"}
    state = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    state["blocks.0.att.time_decay"] = torch.randn(c)
    state["ln_out.weight"] = torch.randn(c).half()
    state["head.weight"] = torch.randn(c, vocab).t()  # strides (1, 11)
    state["blocks.0.ffn.key.weight"] = torch.randn(2 * hidden, c)[1::2]  # an offset, every second
    pair = torch.randn(2, c)  # two tensors of one storage
    state["blocks.0.ln1.weight"], state["blocks.0.ln1.bias"] = pair[0], pair[1]
    state["emb.weight"] = torch.nn.Parameter(torch.randn(vocab, c))
    folder = HERE / "blinkdl"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    torch.save(state, folder / "rwkv4.pth")
    torch.save(state, folder / "rwkv4-protocol4.pth", pickle_protocol=4)
    torch.save(module_of(state), folder / "rwkv4-module.pth")
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    save_file(plain, folder / "rwkv4.safetensors")
    print("blinkdl", {file.name: file.stat().st_size for file in sorted(folder.iterdir())})


def module_of(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module with this state dict; ln_out.bias is a buffer, and one buffer is not in it."""
    root = torch.nn.Module()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        if name == "ln_out.bias":
            module.register_buffer(last, tensor)
        else:
            module.register_parameter(last, torch.nn.Parameter(tensor))
    root.register_buffer("passing", torch.zeros(3, dtype=torch.int64), persistent=False)
    return root


def check(name: str, folder: str) -> None:
    """Prints how far the logits of a folder, loaded by transformers, are from the expected ones."""
    expected = load_file(HERE / name / "expected.safetensors")
    model, info = MODELS[name][0].from_pretrained(folder, output_loading_info=True)
    tokens, more = expected["tokens"].long(), {}
    if name == "hrm_text":
        kinds = torch.arange(tokens.shape[1])[None] < expected["lengths"][:, None]
        more = {"token_type_ids": kinds.int()}
    with torch.no_grad():
        logits = model.float().eval()(tokens, **more).logits
    problems = {key: value for key, value in info.items() if value}
    print(f"{name}: largest difference {(logits - expected['logits']).abs().max():.2e}", problems)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        check(*sys.argv[2:])
    else:
        for model_name in sys.argv[1:] or MODELS:
            make(model_name)
        if not sys.argv[1:]:
            make_blinkdl()

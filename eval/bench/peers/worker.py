"""Worker in the peers' environment: one training step of a peer for each line on stdin.

    python worker.py NAME BATCH TIME VOCAB WIDTH LAYERS

Must not import this project, only the file beside it.
"""

import json
import sys
import time


def torch_step(model, batch, length, vocab, logits_of):
    """Build a training step with AdamW; return (step, parameters, matmul parameters)."""
    import torch

    tokens = torch.randint(0, vocab, (batch, length + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step():
        logits = logits_of(model, tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    total = sum(p.numel() for p in model.parameters())
    linears = [m for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    return step, total, sum(m.weight.numel() for m in linears)


def transformers_peer(kind, batch, length, vocab, width, layers):
    """Build mamba2, rwkv or gpt2 of transformers."""
    import transformers as t

    if kind == "mamba2":
        config = t.Mamba2Config(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=layers,
            num_heads=2 * width // 64,
            head_dim=64,
            n_groups=1,
            state_size=128,
            chunk_size=64,
            use_cache=False,
        )
        model = t.Mamba2ForCausalLM(config)
    elif kind == "rwkv":
        config = t.RwkvConfig(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=layers,
            context_length=length,
            use_cache=False,
        )
        model = t.RwkvForCausalLM(config)
    else:
        config = t.GPT2Config(
            vocab_size=vocab,
            n_embd=width,
            n_layer=layers,
            n_head=width // 64,
            n_positions=length,
            use_cache=False,
        )
        model = t.GPT2LMHeadModel(config)
    model.train()
    return torch_step(model, batch, length, vocab, lambda m, x: m(input_ids=x).logits)


def mambapy_peer(batch, length, vocab, width, layers):
    """Build Mamba-1 of mambapy with its parallel scan; its LM wrapper requires a CUDA package."""
    import torch
    from mambapy.mamba import Mamba, MambaConfig

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(vocab, width)
            self.mamba = Mamba(MambaConfig(d_model=width, n_layers=layers))
            self.head = torch.nn.Linear(width, vocab, bias=False)

        def forward(self, tokens):
            return self.head(self.mamba(self.embed(tokens)))

    return torch_step(Model(), batch, length, vocab, lambda m, x: m(x))


def mamba2_jax_peer(batch, length, vocab, width, layers):
    """Build mamba2-jax, jitted."""
    import jax
    import optax
    from flax import nnx
    from mamba2_jax import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        head_dim=64,
        state_size=128,
        chunk_size=64,
    )
    model = Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adamw(1e-3)
    moments = optimizer.init(params)
    tokens = jax.random.randint(jax.random.key(0), (batch, length + 1), 0, vocab)

    def loss(params):
        out = nnx.merge(graph, params, rest)(input_ids=tokens[:, :-1])
        logits = out["logits"] if isinstance(out, dict) else out.logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    @jax.jit
    def update(params, moments):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, value

    def step():
        nonlocal params, moments
        params, moments, value = update(params, moments)
        return float(value)

    sizes = [x.size for x in jax.tree.leaves(params)]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    matrices = sum(x.size for path, x in leaves if "kernel" in jax.tree_util.keystr(path))
    return step, sum(sizes), matrices


def main():
    """Build the peer, run its first step, then one for each line."""
    name, *sizes = sys.argv[1:]
    sizes = [int(size) for size in sizes]
    answers = sys.stdout
    sys.stdout = sys.stderr  # keep prints of the libraries out of the answers
    if name == "mambapy mamba1":
        step, parameters, matrices = mambapy_peer(*sizes)
    elif name.startswith("torch rnk"):
        from rnk import make_step

        step, parameters = make_step(*sizes, dtype=name.split()[-1])
        matrices = 0  # not the same number for every byte
    elif name == "mamba2-jax":
        step, parameters, matrices = mamba2_jax_peer(*sizes)
    else:
        step, parameters, matrices = transformers_peer(name.split()[1], *sizes)

    def timed():
        begun, used = time.perf_counter(), time.process_time()
        step()
        return time.perf_counter() - begun, time.process_time() - used

    facts = {"parameters": parameters, "matmul_parameters": matrices}
    print(json.dumps({**facts, "first_step_seconds": timed()[0]}), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(dict(zip(("seconds", "cpu_seconds"), timed(), strict=True))), file=answers)
        answers.flush()


if __name__ == "__main__":
    main()

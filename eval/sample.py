"""Text from a trained model, as a stream, in constant memory.

    python -m eval.sample --workdir=runs/name --prompt "My fellow " [--tokens 500]
                          [--temperature 0.8] [--top-k K] [--top-p P] [--seed N] [--follow]

The prompt is read by the model's fast form; after that nothing is kept but the recurrent state and
one row of logits, so a million tokens cost no more memory than ten. Tokens are drawn on the device,
32 a call, and printed as soon as they are text (a UTF-8 character is held back until it is whole).
"""

import argparse
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError

CHUNK = 32  # tokens a device call
PREFILL = 256  # prompt tokens a device call


@dataclass(frozen=True)
class Choice:
    """How the next token is drawn from logits.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: keep only this many most likely tokens; None = all.
        top_p: keep the fewest most likely tokens whose probabilities (after the temperature) reach
            this sum; None = all.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        if not self.temperature >= 0:
            raise UserError(f"temperature={self.temperature}: give 0 (most likely token) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k={self.top_k}: give 1 or more, or leave it out for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p={self.top_p}: give a probability above 0 and at most 1")


DEFAULT = Choice()


def draw(logits: jax.Array, key: jax.Array, choice: Choice) -> jax.Array:
    """Tokens int32 (batch,) from logits float32 (batch, vocab)."""
    if choice.temperature == 0:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    logits = logits.astype(jnp.float32) / choice.temperature
    if choice.top_k is not None and choice.top_k < logits.shape[-1]:
        kept, _ = jax.lax.top_k(logits, choice.top_k)
        logits = jnp.where(logits < kept[:, -1:], -jnp.inf, logits)
    if choice.top_p is not None and choice.top_p < 1:
        ranked = jnp.sort(logits, -1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ranked, -1), -1) - jax.nn.softmax(ranked, -1)
        # The first token has nothing before it, so at least one always stays.
        lowest = jnp.min(jnp.where(before < choice.top_p, ranked, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < lowest, -jnp.inf, logits)
    return jax.random.categorical(key, logits).astype(jnp.int32)


@jax.jit
def prefill(model, state, tokens):
    """Reads tokens int32 (1, time); returns the state after them and the last logits (1, vocab)."""
    state, out = model(state, tokens)
    return state, out.logits[:, -1]


@functools.partial(jax.jit, static_argnames=("choice",), donate_argnames=("state", "logits"))
def generate_chunk(model, state, logits, key, choice: Choice):
    """Draws and reads CHUNK tokens: (state, logits of the next one, tokens int32 (CHUNK,))."""

    def body(carry, key):
        state, logits = carry
        token = draw(logits, key, choice)
        state, out = model.step(state, token)
        return (state, out.logits), token[0]

    (state, logits), tokens = jax.lax.scan(body, (state, logits), jax.random.split(key, CHUNK))
    return state, logits, tokens


def sample(
    model,
    tokenizer,
    prompt: str,
    *,
    tokens: int | None = 500,
    choice: Choice = DEFAULT,
    seed: int = 0,
) -> Iterator[str]:
    """Continues a prompt; yields pieces of text as they are drawn, without the prompt.

    Args:
        model: anything with `initial_state`, a call and `step` (a left-to-right language model).
        tokenizer: see `jaxmodels.data.tokenizers`.
        prompt: may be empty: then the text starts after a line break (or padding, for words).
        tokens: how many tokens to draw; None goes on for ever.
        choice: see `Choice`.
        seed: the same seed, prompt and model give the same text.

    Raises:
        UserError: a model that cannot stream, or a number of tokens below one.
    """
    if tokens is not None and tokens < 1:
        raise UserError(f"tokens={tokens}: give 1 or more")
    if not hasattr(model, "step"):
        raise UserError(
            f"{type(model).__name__} has no step(): it is no left-to-right language model"
        )
    return _stream(model, tokenizer, prompt, tokens, choice, seed)


def _stream(model, tokenizer, prompt, tokens, choice, seed):
    ids = np.asarray(tokenizer.encode(prompt), np.int32)
    if not ids.size:
        ids = np.asarray(tokenizer.encode("\n"), np.int32)
    if not ids.size:
        ids = np.zeros(1, np.int32)
    state = model.initial_state(1)
    for start in range(0, len(ids), PREFILL):
        state, logits = prefill(model, state, ids[None, start : start + PREFILL])
    key = jax.random.key(seed)
    text = _Text(tokenizer)
    drawn = 0
    while tokens is None or drawn < tokens:
        chunk_key = jax.random.fold_in(key, drawn // CHUNK)
        state, logits, new = generate_chunk(model, state, logits, chunk_key, choice)
        new = np.asarray(new)[: None if tokens is None else tokens - drawn]
        drawn += len(new)
        # Bytes are text at once; one token at a time so that a terminal flows instead of jumping.
        for token in new:
            if piece := text.push(token):
                yield piece
    if piece := text.finish():
        yield piece


class _Text:
    """Tokens to text as they come, whatever the tokenizer."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.bytes = tokenizer.streaming_decoder() if tokenizer.name == "byte" else None

    def push(self, token) -> str:
        if self.bytes:
            return self.bytes.push(token)
        between = " " if self.tokenizer.name == "word" else ""
        return between + self.tokenizer.decode([token])

    def finish(self) -> str:
        return self.bytes.finish() if self.bytes else ""


def sample_text(workdir, prompt: str = "", length: int = 300, choice: Choice = DEFAULT) -> str:
    """Prompt and continuation of a run's best checkpoint, `length` tokens long.

    Args:
        workdir: folder of a run.
        prompt: text to continue.
        length: tokens to draw.
        choice: see `Choice`.

    Raises:
        UserError: no run or no checkpoint there.
    """
    from eval.run import load_trained

    trained, tokenizer = load_trained(workdir)
    pieces = sample(trained.model, tokenizer, prompt, tokens=length, choice=choice)
    return prompt + "".join(pieces)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.sample", description="Continue a prompt with a trained model."
    )
    parser.add_argument("--workdir", required=True, help="folder of a run, e.g. runs/prernk")
    parser.add_argument("--prompt", default="", help="text to continue")
    parser.add_argument("--tokens", type=int, default=500, help="how many tokens to draw")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 = most likely token")
    parser.add_argument("--top-k", type=int, help="draw from the K most likely tokens only")
    parser.add_argument("--top-p", type=float, help="draw from the most likely P of the mass only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default="best", help="best, last, or a step")
    parser.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    flags = parser.parse_args(arguments)
    from eval.run import load_trained

    try:
        choice = Choice(flags.temperature, flags.top_k, flags.top_p)
        trained, tokenizer = load_trained(flags.workdir, flags.checkpoint)
        pieces = sample(
            trained.model,
            tokenizer,
            flags.prompt,
            tokens=None if flags.follow else flags.tokens,
            choice=choice,
            seed=flags.seed,
        )
        print(flags.prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
        return 0 if flags.follow else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Text from a trained model, as a stream, in constant memory.

    python -m eval.sample --workdir=runs/name --prompt "My fellow " [--tokens 500]
                          [--temperature 0.8] [--top-k K] [--top-p P] [--seed N] [--follow]
                          [--state-in FILE] [--state-out FILE]

The prompt is read by the model's fast form; after that nothing is kept but the recurrent state and
one row of logits, so a million tokens cost no more memory than ten. Tokens are drawn on the device,
32 a call, and printed as soon as they are text (a UTF-8 character is held back until it is whole).
With --state-out the session is kept in a file; --state-in goes on from there, with a new prompt or
without, as if it had not ended.
"""

import argparse
import functools
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags

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


@functools.partial(jax.jit, static_argnames=("choice", "part"), donate_argnames=("state", "logits"))
def generate_chunk(model, state, logits, key, choice: Choice, part: tuple = (0, CHUNK)):
    """Draws and reads tokens: (state, logits of the next one, tokens int32 (count,)).

    part: from which to before which of a chunk's CHUNK tokens; all of them as a rule.
    """

    def body(carry, key):
        state, logits = carry
        token = draw(logits, key, choice)
        state, out = model.step(state, token)
        return (state, out.logits), token[0]

    keys = jax.random.split(key, CHUNK)[slice(*part)]
    (state, logits), tokens = jax.lax.scan(body, (state, logits), keys)
    return state, logits, tokens


def sample(
    model,
    tokenizer,
    prompt: str,
    *,
    tokens: int | None = 500,
    choice: Choice = DEFAULT,
    seed: int = 0,
    session=None,
) -> Iterator[str]:
    """Continues a prompt; yields pieces of text as they are drawn, without the prompt.

    Args:
        model: anything with `initial_state`, a call and `step` (a left-to-right language model).
        tokenizer: see `jaxmodels.data.tokenizers`.
        prompt: may be empty: then the text starts after a line break (or padding, for words).
        tokens: how many tokens to draw; None goes on for ever.
        choice: see `Choice`.
        seed: the same seed, prompt and model give the same text.
        session: a `jaxmodels.convert.state.Session` of one row to go on from, or with a state of
            None to begin. When all is drawn, it is brought up to date and stands after the last
            token. An empty prompt adds nothing to a session.

    Raises:
        UserError: a model that cannot stream, or a number of tokens below one.
    """
    if tokens is not None and tokens < 1:
        raise UserError(f"tokens={tokens}: give 1 or more")
    if not hasattr(model, "step"):
        raise UserError(
            f"{type(model).__name__} has no step(): it is no left-to-right language model"
        )
    return _stream(model, tokenizer, prompt, tokens, choice, seed, session)


def _stream(model, tokenizer, prompt, tokens, choice, seed, session):
    begun = session is not None and session.state is not None
    state, logits = model.initial_state(1), None
    if begun:  # copies, for what is given to a device call that donates is gone
        state, logits = jax.tree.map(jnp.array, (session.state, session.logits))
    ids = np.asarray(tokenizer.encode(prompt), np.int32)
    if not ids.size and logits is None:
        ids = np.asarray(tokenizer.encode("\n"), np.int32)
    if not ids.size and logits is None:
        ids = np.zeros(1, np.int32)
    for start in range(0, len(ids), PREFILL):
        state, logits = prefill(model, state, ids[None, start : start + PREFILL])
    key = jax.random.key(seed)
    text = _Text(tokenizer)
    before = session.drawn if begun else 0
    drawn = 0
    while tokens is None or drawn < tokens:
        chunk, first = divmod(before + drawn, CHUNK)
        # Only a session needs the state after the very last token.
        last = CHUNK if session is None or tokens is None else min(CHUNK, first + tokens - drawn)
        chunk_key = jax.random.fold_in(key, chunk)
        state, logits, new = generate_chunk(model, state, logits, chunk_key, choice, (first, last))
        new = np.asarray(new)[: None if tokens is None else tokens - drawn]
        drawn += len(new)
        # Bytes are text at once; one token at a time so that a terminal flows instead of jumping.
        for token in new:
            if piece := text.push(token):
                yield piece
    if session is not None:
        session.state, session.logits, session.drawn = state, logits, before + drawn
        session.tokens_read += len(ids) + drawn
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
        between = "" if self.tokenizer.name == "char" else " "
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


def _session(flags: argparse.Namespace, model):
    """The session that the flags ask for, or None."""
    if not (flags.state_in or flags.state_out):
        return None
    if flags.state_out and flags.follow:
        raise UserError("--state-out: with --follow there is no last token; give --tokens N")
    if importlib.util.find_spec("safetensors") is None:
        raise UserError("--state-in, --state-out: need safetensors; pip install safetensors")
    from jaxmodels.convert.state import Session, load_session
    from jaxmodels.convert.tensors import must_be_new

    if flags.state_out:
        must_be_new(Path(flags.state_out))  # now, not when all is drawn
    if not flags.state_in:
        return Session(None)
    session = load_session(flags.state_in, model)
    rows = len(jax.tree.leaves(session.state)[0])
    if rows != 1:
        raise UserError(f"--state-in {flags.state_in}: holds {rows} sessions side by side, not one")
    return session


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:  # of more bits JAX would use the last 32
        raise UserError(f"--seed={text}: give a whole number below 2^32 = {2**32}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    set_safe_flags()
    parser = argparse.ArgumentParser(
        prog="python -m eval.sample", description="Continue a prompt with a trained model."
    )
    parser.add_argument("--workdir", required=True, help="folder of a run, e.g. runs/prernk")
    parser.add_argument("--prompt", default="", help="text to continue")
    parser.add_argument("--tokens", type=int, default=500, help="how many tokens to draw")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 = most likely token")
    parser.add_argument("--top-k", type=int, help="draw from the K most likely tokens only")
    parser.add_argument("--top-p", type=float, help="draw from the most likely P of the mass only")
    parser.add_argument("--seed", default="0", help="a whole number below 2^32")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a step")
    parser.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--state-in", metavar="FILE", help="go on from a session kept there")
    parser.add_argument("--state-out", metavar="FILE", help="keep the session in this new file")
    flags = parser.parse_args(arguments)
    from eval.run import load_trained

    try:
        choice, seed = Choice(flags.temperature, flags.top_k, flags.top_p), _seed(flags.seed)
        trained, tokenizer = load_trained(flags.workdir, flags.checkpoint)
        session = _session(flags, trained.model)
        pieces = sample(
            trained.model,
            tokenizer,
            flags.prompt,
            tokens=None if flags.follow else flags.tokens,
            choice=choice,
            seed=seed,
            session=session,
        )
        print(flags.prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        if flags.state_out:
            from jaxmodels.convert.state import save_session

            save_session(session, trained.model, flags.state_out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
        return 0 if flags.follow else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

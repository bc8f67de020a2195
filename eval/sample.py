"""Stream text sampled from a trained model, in constant memory.

    python -m eval.sample --workdir=runs/name --prompt "My fellow " [--tokens 500]
                          [--temperature 0.8] [--top-k K] [--top-p P] [--seed N] [--follow]
                          [--state-in FILE] [--state-out FILE]

The prompt is read in parallel; after that only the recurrent state and one row of logits are kept.
Tokens are drawn on the device, 32 per call, and printed as soon as they decode to text (UTF-8
characters are held back until complete). --state-out writes the session to a file; --state-in
resumes from it, with or without a new prompt, exactly as if it had not been interrupted.
"""

import argparse
import codecs
import functools
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels import cli
from jaxmodels.data.tokenizers.unknown import Unknown
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of

CHUNK = 32  # tokens per device call
PREFILL = 256  # prompt tokens per device call


@dataclass(frozen=True)
class Choice:
    """Sampling options.

    Attributes:
        temperature: divisor of the logits; 0 selects the most likely token.
        top_k: number of most likely tokens to sample from; None = all.
        top_p: nucleus sampling: draw from the smallest set of most likely tokens whose
            probabilities (after the temperature) reach this sum; None = all.
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
    """Draw tokens int32 (batch,) from logits float32 (batch, vocab)."""
    if choice.temperature == 0:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    logits = logits.astype(jnp.float32) / choice.temperature
    if choice.top_k is not None and choice.top_k < logits.shape[-1]:
        kept, _ = jax.lax.top_k(logits, choice.top_k)
        logits = jnp.where(logits < kept[:, -1:], -jnp.inf, logits)
    if choice.top_p is not None and choice.top_p < 1:
        ranked = jnp.sort(logits, -1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ranked, -1), -1) - jax.nn.softmax(ranked, -1)
        # `before` is 0 for the most likely token, so at least one is always kept.
        lowest = jnp.min(jnp.where(before < choice.top_p, ranked, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < lowest, -jnp.inf, logits)
    return jax.random.categorical(key, logits).astype(jnp.int32)


@jax.jit
def prefill(model, state, tokens):
    """Read tokens int32 (1, time); return the state after them and the last logits (1, vocab)."""
    state, out = model(state, tokens)
    return state, out.logits[:, -1]


@functools.partial(jax.jit, static_argnames=("choice", "part"), donate_argnames=("state", "logits"))
def generate_chunk(model, state, logits, key, choice: Choice, part: tuple = (0, CHUNK)):
    """Draw tokens and feed them back; return (state, next logits, tokens int32 (count,)).

    part: (start, stop) within a chunk's CHUNK random keys.
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
    """Continue a prompt; yield pieces of text as they are drawn, without the prompt.

    Args:
        model: a left-to-right language model (`initial_state`, `__call__`, `step`).
        tokenizer: see `jaxmodels.data.tokenizers.base`.
        prompt: if empty, the text starts after a line break (or padding, for words).
        tokens: number of tokens to draw; None = unlimited.
        choice: see `Choice`.
        seed: the same seed, prompt and model give the same text.
        session: a `jaxmodels.session.Session` with batch size 1 to resume, or with state None to
            start. It is updated in place after the last token. An empty prompt adds nothing to it.

    Raises:
        UserError: the model cannot stream, or `tokens` is below 1.
    """
    if tokens is not None and tokens < 1:
        raise UserError(f"tokens={tokens}: give 1 or more")
    if not traits_of(model).step:
        raise UserError(
            f"{type(model).__name__} has no step(): it is not a left-to-right language model"
        )
    return _stream(model, tokenizer, prompt, tokens, choice, seed, session)


def _stream(model, tokenizer, prompt, tokens, choice, seed, session):
    begun = session is not None and session.state is not None
    state, logits = model.initial_state(1), None
    if begun:  # copy: generate_chunk donates its inputs
        state, logits = jax.tree.map(jnp.array, (session.state, session.logits))
    ids = np.asarray(tokenizer.encode(prompt), np.int32)
    if not ids.size and logits is None:
        ids = np.asarray(tokenizer.encode("\n"), np.int32)
    if not ids.size and logits is None:
        ids = np.zeros(1, np.int32)
    for start in range(0, len(ids), PREFILL):
        state, logits = prefill(model, state, ids[None, start : start + PREFILL])
    key = jax.random.key(seed)
    decoder = None
    if tokenizer.name == "byte":  # holds back unfinished characters
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    between = "" if tokenizer.name == "char" else " "
    before = session.drawn if begun else 0
    drawn = 0
    while tokens is None or drawn < tokens:
        chunk, first = divmod(before + drawn, CHUNK)
        # Without a session, surplus tokens of the last chunk are drawn and dropped.
        last = CHUNK if session is None or tokens is None else min(CHUNK, first + tokens - drawn)
        chunk_key = jax.random.fold_in(key, chunk)
        state, logits, new = generate_chunk(model, state, logits, chunk_key, choice, (first, last))
        new = np.asarray(new)[: None if tokens is None else tokens - drawn]
        drawn += len(new)
        # One token at a time, so that a terminal scrolls smoothly.
        for token in new:
            if decoder is None:
                yield between + tokenizer.decode([token])
            elif piece := decoder.decode(bytes([token])):
                yield piece
    if session is not None:
        session.state, session.logits, session.drawn = state, logits, before + drawn
        session.tokens_read += len(ids) + drawn
    if decoder and (piece := decoder.decode(b"", final=True)):
        yield piece


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `choice_of`, `seed_of` and `session_of` read."""
    parser.add_argument("--temperature", type=float, default=0.8, help="0 = most likely token")
    parser.add_argument("--top-k", type=int, help="sample from the K most likely tokens")
    parser.add_argument("--top-p", type=float, help="nucleus sampling: probability mass to keep")
    parser.add_argument("--seed", default="0", help="a whole number below 2^32")
    parser.add_argument("--state-in", metavar="FILE", help="resume the session in this file")
    parser.add_argument("--state-out", metavar="FILE", help="write the session to this new file")


def choice_of(flags: argparse.Namespace) -> Choice:
    """Return the sampling options of the flags; raise UserError if one is out of range."""
    return Choice(flags.temperature, flags.top_k, flags.top_p)


def seed_of(flags: argparse.Namespace) -> int:
    """Return the seed of the flags; raise UserError if it is none."""
    text = flags.seed
    if not text.isdecimal() or int(text) >= 2**32:  # JAX would use the low 32 bits
        raise UserError(f"--seed={text}: give a whole number below 2^32 = {2**32}")
    return int(text)


def session_of(flags: argparse.Namespace, model):
    """Open the `jaxmodels.session.Session` that the flags request, or return None.

    Raises:
        UserError: --state-in is no session of this model, or --state-out exists.
    """
    if not (flags.state_in or flags.state_out):
        return None
    if importlib.util.find_spec("safetensors") is None:
        raise UserError("--state-in, --state-out: need safetensors; pip install safetensors")
    from jaxmodels.paths import user_path
    from jaxmodels.session import Session, load_session
    from jaxmodels.writing import must_be_new

    if flags.state_out:
        must_be_new(user_path(flags.state_out, "--state-out "))  # fail before sampling
    if not flags.state_in:
        return Session(None)
    session = load_session(flags.state_in, model)
    rows = len(jax.tree.leaves(session.state)[0])
    if rows != 1:
        raise UserError(f"--state-in {flags.state_in}: expected a batch of 1 session, got {rows}")
    return session


@cli.command(interrupted="", prints=True)
def main(arguments: list[str]) -> int | None:
    """Print a prompt and its continuation."""
    parser = cli.parser("eval.sample", __doc__, workdir=cli.RUN, checkpoint=True)
    parser.add_argument("--prompt", default="", help="text to continue")
    parser.add_argument("--tokens", type=int, default=500, help="number of tokens to draw")
    parser.add_argument("--follow", action="store_true", help="continue until Ctrl-C")
    add_options(parser)
    flags = parser.parse_args(arguments)
    choice, seed = choice_of(flags), seed_of(flags)
    cli.utf8(flags.prompt, "--prompt")
    if flags.state_out and flags.follow:
        raise UserError("--state-out cannot be combined with --follow; give --tokens N")
    from eval.run import load_trained
    from train.tasks.fields import ANSWER_FORMATS

    trained, tokenizer = load_trained(flags.workdir, flags.checkpoint)
    if not traits_of(trained.model).step:
        answers = trained.config.data.format in ANSWER_FORMATS
        raise UserError(
            f"--workdir={flags.workdir}: a {trained.config.model!r} does not continue text"
            + ("; use python -m eval.predict" if answers else " (it has no step())")
        )
    unknown = Unknown(tokenizer)
    unknown.read(flags.prompt)
    for note in unknown.notes("the prompt"):
        print(f"warning: {note}", file=sys.stderr)
    session = session_of(flags, trained.model)
    pieces = sample(
        trained.model,
        tokenizer,
        flags.prompt,
        tokens=None if flags.follow else flags.tokens,
        choice=choice,
        seed=seed,
        session=session,
    )
    try:
        for piece in itertools.chain([flags.prompt], pieces):
            print(piece, end="", flush=True)
            if cli.output_lost() and not flags.state_out:  # e.g. `| head -c 40`
                return 0
    except KeyboardInterrupt:
        print()
        return 0 if flags.follow else 130
    print()
    if flags.state_out:
        from jaxmodels.session import save_session

        save_session(session, trained.model, flags.state_out)


if __name__ == "__main__":
    sys.exit(main())

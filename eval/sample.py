"""Stream text sampled from a trained model, in constant memory.

    python -m eval.sample --workdir=runs/name --prompt "My fellow " [--tokens 500]
                          [--temperature 0.8] [--top-k K] [--top-p P] [--min-p P]
                          [--repetition-penalty R] [--stop TEXT] [--seed N] [--follow]
                          [--state-in FILE] [--state-out FILE]

The prompt is read in parallel; after that only the recurrent state and one row of logits are kept.
Tokens are drawn on the device, several a call, and printed as soon as they decode to text (UTF-8
characters are held back until complete). --state-out writes the session to a file; --state-in
resumes from it, with or without a new prompt, exactly as if it had not been interrupted.
"""

import argparse
import importlib.util
import itertools
import sys
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxmodels import cli
from jaxmodels.data.tokenizers.unknown import Unknown
from jaxmodels.errors import UserError
from jaxmodels.generation.engine import PIECE, Engine
from jaxmodels.generation.request import UNLIMITED, Request
from jaxmodels.generation.sampling import Sampling
from jaxmodels.generation.text import TextOf, checked_stops
from jaxmodels.models.contract import traits_of

DEFAULT = Sampling(0.8)


def sample(
    model,
    tokenizer,
    prompt: str,
    *,
    tokens: int | None = 500,
    choice: Sampling = DEFAULT,
    stop: Sequence[str] = (),
    seed: int = 0,
    session=None,
) -> Iterator[str]:
    """Continue a prompt; yield pieces of text as they are drawn, without the prompt.

    Args:
        model: a left-to-right language model (`initial_state`, `__call__`, `step`).
        tokenizer: see `jaxmodels.data.tokenizers.base`.
        prompt: if empty, the text starts after a line break (or padding, for words).
        tokens: number of tokens to draw; None = unlimited.
        choice: see `jaxmodels.generation.sampling.Sampling`.
        stop: strings before the first of which the text ends.
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
    return _stream(model, tokenizer, prompt, tokens, choice, stop, seed, session)


def _stream(model, tokenizer, prompt, tokens, choice, stop, seed, session):
    begun = session is not None and session.state is not None and session.logits is not None
    ids = np.asarray(tokenizer.encode(prompt), np.int32)
    if not ids.size and not begun:
        ids = np.asarray(tokenizer.encode("\n"), np.int32)
    if not ids.size and not begun:
        ids = np.zeros(1, np.int32)
    engine = Engine(model, piece=PIECE)
    before = session.recent if begun else ()
    text = TextOf(tokenizer, (*before, *(ids if prompt else ())), stop, each=True)
    most = UNLIMITED if tokens is None else tokens
    keep = session is not None
    engine.submit(Request(ids, most, choice, seed, text=text, session=session, keep=keep))
    while not engine.idle:
        for event in engine.advance():
            if event.error:
                raise UserError(event.error)
            # One token at a time, so that a terminal scrolls smoothly.
            yield from filter(None, event.pieces)
            if event.session is not None:
                vars(session).update(vars(event.session))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `choice_of`, `seed_of` and `session_of` read."""
    parser.add_argument("--temperature", type=float, default=0.8, help="0 = most likely token")
    parser.add_argument("--top-k", type=int, help="sample from the K most likely tokens")
    parser.add_argument("--top-p", type=float, help="nucleus sampling: probability mass to keep")
    parser.add_argument("--min-p", type=float, help="least share of the most likely token's")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="1 = off")
    stop = {"metavar": "TEXT", "action": "append", "help": "stop before this; may be repeated"}
    parser.add_argument("--stop", **stop)
    parser.add_argument("--seed", default="0", help="a whole number below 2^32")
    parser.add_argument("--state-in", metavar="FILE", help="resume the session in this file")
    parser.add_argument("--state-out", metavar="FILE", help="write the session to this new file")


def choice_of(flags: argparse.Namespace) -> Sampling:
    """Return the sampling options of the flags; raise UserError if one is out of range."""
    names = "temperature", "top_k", "top_p", "min_p", "repetition_penalty"
    return Sampling(**{name: getattr(flags, name) for name in names})


def seed_of(flags: argparse.Namespace) -> int:
    """Return the seed of the flags; raise UserError if it is none."""
    seed = cli.whole_number(flags.seed)
    if not 0 <= seed < 2**32:  # JAX would use the low 32 bits
        raise UserError(f"--seed={flags.seed}: give a whole number below 2^32 = {2**32}")
    return seed


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
    choice, seed, stop = choice_of(flags), seed_of(flags), checked_stops(flags.stop)
    cli.utf8(flags.prompt, "--prompt")
    if flags.state_out and flags.follow:
        raise UserError("--state-out cannot be combined with --follow; give --tokens N")
    from eval.run import load_trained
    from train.tasks.fields import ANSWER_FORMATS

    trained, tokenizer = load_trained(flags.workdir, flags.checkpoint, flags.base)
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
        stop=stop,
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

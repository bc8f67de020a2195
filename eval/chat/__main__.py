"""Talk to a trained model, in a terminal or line by line.

    python -m eval.chat --workdir=runs/name [--prompt TEXT] [--tokens 500]
                        [--temperature 0.8] [--top-k K] [--top-p P] [--min-p P]
                        [--repetition-penalty R] [--stop TEXT] [--seed N] [--explain]
                        [--refuse-below P] [--stop-above P] [--verify N]
                        [--state-in FILE] [--state-out FILE]

In a terminal, Ctrl-D ends the conversation. Without one, every line of standard input is a message
and every line of standard output a reply; --prompt asks once. The recurrent state is kept between
turns; --state-out writes it to a file at the end, and --state-in continues from there exactly as if
the conversation had not been interrupted. Replies are valid UTF-8, whatever the model prefers.

A model whose folder has a chat template (docs/convert.md) is talked to through that; its --tokens
are tokens, and its state is not written. Without one, it is a left-to-right model of bytes.

RNK also has heads: it refuses when its probability of being able to answer is below --refuse-below
(by default 0.5 if it was trained on conversations, else 0, never), ends a reply with the chunk for
which its stop head exceeds --stop-above, and --explain shows intent, plans, stops and gates of each
reply.

--verify N draws up to N replies to an arithmetic question, e.g. "What is 12 + 7?", until one states
the right result. The program calculates it, not the model: this verifies, it does not reason.
"""

import argparse
import sys
from collections.abc import Iterator

import numpy as np

from eval.chat.conventions import REFUSAL, refusal_threshold, template_of
from eval.chat.conversation import Conversation, Options, Reply, check_model, verified
from eval.chat.explain import explain
from eval.chat.templated import Templated
from eval.sample import add_options, choice_of, seed_of, session_of
from jaxmodels import cli
from jaxmodels.data.chat.exchange import one_line
from jaxmodels.data.tokenizers.folder import endings
from jaxmodels.errors import UserError
from jaxmodels.generation.text import checked_stops
from jaxmodels.models.contract import traits_of
from jaxmodels.models.rnk.constraints import check_arithmetic
from jaxmodels.models.rnk.model import RNK
from jaxmodels.paths import user_path


def _flags(arguments: list[str]) -> argparse.Namespace:
    parser = cli.parser("eval.chat", __doc__, workdir=cli.RUN, checkpoint=True)
    parser.add_argument("--prompt", help="one message; print the reply and exit")
    parser.add_argument("--tokens", type=int, default=500, help="most bytes of a reply")
    add_options(parser)
    parser.add_argument("--explain", action="store_true", help="show RNK's heads and plans")
    parser.add_argument("--refuse-below", type=float, metavar="P", help="answerable probability")
    parser.add_argument("--stop-above", type=float, metavar="P", help="stop probability")
    parser.add_argument("--verify", type=int, metavar="N", help="most replies to a calculation")
    flags = parser.parse_args(arguments)
    for name in ("refuse_below", "stop_above"):
        value = getattr(flags, name)
        if value is not None and not 0 <= value <= 1:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option}={value}: give a probability from 0 to 1")
    if flags.verify is not None and flags.verify < 1:
        raise UserError(f"--verify={flags.verify}: give 1 or more replies")
    if flags.verify and flags.temperature == 0:
        raise UserError("--verify: at --temperature=0 all replies are the same; raise it")
    return flags


@cli.command(interrupted="", prints=True)
def main(arguments: list[str]) -> int | None:
    """Reply to messages until they end."""
    flags = _flags(arguments)
    stop = checked_stops(flags.stop)
    options = Options(choice_of(flags), seed_of(flags), flags.tokens, flags.stop_above, stop)
    if flags.prompt is not None:
        _message(flags.prompt.encode(errors="surrogateescape"), "--prompt")
    from eval.run import load_trained

    trained, tokenizer = load_trained(flags.workdir, flags.checkpoint, flags.base)
    chats = trained.config.data.format == "chat"
    template = template_of(user_path(flags.workdir), chats=chats)
    if template is not None and traits_of(trained.model).step:
        return _talk_by_template(flags, options, trained.model, tokenizer, template)
    check_model(trained.model, flags.workdir, tokenizer)
    conversation = Conversation(trained.model, session_of(flags, trained.model))
    talk = _Talk(flags, options, conversation, trained.config)
    try:
        for prompt in _prompts(flags):
            talk.reply(prompt)
            if cli.output_lost():
                break
    except KeyboardInterrupt:
        print()
        raise
    finally:  # what has been said is kept, also after Ctrl-C or a broken line
        if flags.state_out and conversation.session.state is not None:
            from jaxmodels.session import save_session

            save_session(conversation.session, trained.model, flags.state_out)


def _talk_by_template(flags, options: Options, model, tokenizer, template) -> None:
    for name in ("explain", "refuse_below", "stop_above", "verify", "state_in", "state_out"):
        value = getattr(flags, name)
        if value is not None and value is not False:  # 0.0 was given
            raise UserError(f"--{name.replace('_', '-')}: not with a chat template; leave it out")
    ends, stops = endings(user_path(flags.workdir), tokenizer)
    talk = Templated(model, tokenizer, template, (ends, (*stops, *options.stop)))
    terminal = flags.prompt is None and sys.stdin.isatty()
    for prompt in _prompts(flags):
        print("Model: " if terminal else "", end="", flush=True)
        seed = np.random.SeedSequence((options.seed, len(talk.read))).generate_state(1)
        text = prompt.rstrip("\n")
        for piece in talk.reply(text, options.choice, int(seed[0]), options.tokens):
            # In a pipe, a line is a reply.
            print(piece if terminal else piece.replace("\n", " "), end="", flush=True)
        print(flush=True)
        if cli.output_lost():
            break


class _Talk:
    """Prints replies to one conversation's prompts."""

    def __init__(self, flags, options: Options, conversation: Conversation, config):
        self.flags, self.options, self.conversation = flags, options, conversation
        self.model, self.seq_len = conversation.model, config.seq_len
        self.warned = False
        self.lead = "Model: " if flags.prompt is None and sys.stdin.isatty() else ""
        rnk = isinstance(self.model, RNK)
        absent = {"explain": False, "stop_above": None, "refuse_below": None}
        given = [name for name, value in absent.items() if getattr(flags, name) != value]
        if given and not rnk:
            option, name = given[0].replace("_", "-"), type(self.model).__name__
            raise UserError(f"--{option}: {name} has no heads for it, RNK has; leave it out")
        chats = config.data.format == "chat"
        self.refuse_below = refusal_threshold(self.model, flags.refuse_below, chats=chats)

    def reply(self, prompt: str) -> None:
        """Print the reply to a prompt and what was asked for about it."""
        turn = self.conversation.hear(prompt)
        length = turn.read + len(turn.end)
        if length > self.seq_len and not self.warned:
            self.warned = True
            _warn(f"{length} bytes so far; the model was trained on {self.seq_len}")
        print(self.lead, end="", flush=True)
        reply, text, most = None, REFUSAL, self.flags.verify
        if turn.answerable is not None and turn.answerable < self.refuse_below:
            print(f"{text} (answerable {turn.answerable:.2f}, below {self.refuse_below:.2f})")
        elif most and check_arithmetic(prompt, "") is not None:
            reply, tried, right = verified(self.model, turn, self.options, most)
            text = reply.text
            note = f"verified: reply {tried} of at most {most} has the right result"
            if not right:
                note = f"not verified: the first of {tried} replies, none with the right result"
            print(f"{text}\n  {note}")
        else:
            reply = Reply(self.model, turn, self.options)
            for piece in reply:
                print(piece, end="", flush=True)
            print()
            text = reply.text
        if self.flags.explain:
            for line in explain(self.model, turn, reply).lines():
                print(f"  {line}")
        sys.stdout.flush()
        self.conversation.answer(turn, text)


def _prompts(flags) -> Iterator[str]:
    """Yield the messages: that of --prompt, or of the terminal, or the lines of a pipe."""
    if flags.prompt is not None:
        yield flags.prompt
        return
    terminal, number = sys.stdin.isatty(), 0
    while True:
        if terminal:
            print("User: ", end="", flush=True)
        line = sys.stdin.buffer.readline()
        if not line:
            break
        number += 1
        try:
            prompt = _message(line, f"line {number}")
        except UserError as error:
            if not terminal:
                raise
            _warn(str(error))
            continue
        yield prompt
    if terminal:
        print()
    elif not number:
        raise UserError("standard input: empty; write a message a line, or give --prompt TEXT")


def _message(data: bytes, source: str) -> str:
    """Return a message's text; raise UserError if it is empty or not UTF-8."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise UserError(
            f"{source}: not UTF-8, byte {error.start + 1} is 0x{byte:02X}; convert it"
        ) from error
    if not one_line(text):
        raise UserError(f"{source}: empty prompt; write a message")
    return text


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

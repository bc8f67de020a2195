"""Conversations, their exchanges, and the split by which none of a prompt leaks."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jaxmodels.data.chat.exchange import ChatCorpus, Exchange
from jaxmodels.data.chat.labels import answerable_of, intent_of
from jaxmodels.data.pairs.rows import split_by_key
from jaxmodels.data.words import words_of
from jaxmodels.errors import UserError

SPLIT_USE = 5  # draws of the split, see `split_by_key`; the next one parts valid from test


@dataclass(frozen=True)
class Conversation:
    """The turns of two speakers, alternating.

    Attributes:
      turns: texts, none of them blank.
      answers: ascending indices of the turns that are responses, at least 1 each; the turn before a
        response is its prompt.
      source: corpus or file, for reports.
      intent: name of the intent of the last prompt; "" if unlabelled.
      answerable: whether the last response answers; None if unlabelled.
      group: conversations of one group are on the same side of the split; "" = by their prompt.
    """

    turns: tuple[str, ...]
    answers: tuple[int, ...]
    source: str = ""
    intent: str = ""
    answerable: bool | None = None
    group: str = ""


def merged(turns: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Join consecutive turns of a speaker: (speaker, text) pairs -> (speakers, texts)."""
    speakers: list[str] = []
    texts: list[str] = []
    for speaker, text in turns:
        if speakers and speakers[-1] == speaker:
            texts[-1] += "\n" + text
        else:
            speakers.append(speaker)
            texts.append(text)
    return speakers, texts


def exchanges_of(conversation: Conversation, context_turns: int) -> Iterator[Exchange]:
    """Yield the exchange of each response, labelled by rule where it has no label.

    Args:
      conversation: its turns, see `Conversation`.
      context_turns: most turns before the prompt.
    """
    c = conversation
    for at in c.answers:
        turns, response = c.turns[max(at - 1 - context_turns, 0) : at], c.turns[at]
        is_last = at == c.answers[-1]
        intent = c.intent if is_last else ""
        answerable = c.answerable if is_last else None
        if answerable is None:
            answerable = answerable_of(turns[-1], response)
        intent = intent or intent_of(turns[-1], response)
        yield Exchange(turns, response, c.source, intent, answerable)


def prompt_key(prompt: str) -> str:
    """Return a prompt without case, punctuation and spacing; without letters and digits, as it is.

    >>> prompt_key("Hello,  THERE!") == prompt_key("hello there")
    True
    """
    text = unicodedata.normalize("NFKC", prompt).casefold()
    return " ".join(words_of(text.replace("'", ""))) or text.strip()


def split_conversations(
    conversations: Sequence[Conversation],
    name: str,
    *,
    context_turns: int,
    valid_fraction: float,
    test_fraction: float,
    seed: int,
) -> ChatCorpus:
    """Split by conversation, such that no held-out prompt is a prompt of training (`prompt_key`).

    Conversations of one exchange stay together if they have the same prompt, as do those of a
    group. Exchanges whose prompt training has as well are left out of valid and test, and counted
    in `ChatCorpus.split`.

    Args:
      conversations: in a fixed order.
      name: name of the corpus, for reports.
      context_turns: see `exchanges_of`.
      valid_fraction, test_fraction: fractions of the conversations.
      seed: determines the split.

    Raises:
      UserError: bad fractions, or nothing to train on or to validate with.
    """
    held = valid_fraction + test_fraction
    if not (valid_fraction > 0 and test_fraction >= 0 and held < 1):
        raise UserError(
            "data: valid_fraction must be above 0, test_fraction 0 or more, together below 1, "
            f"got {valid_fraction} and {test_fraction}"
        )
    train, unseen = _apart(conversations, held, seed, SPLIT_USE)
    valid, test = _apart(unseen, test_fraction / held, seed, SPLIT_USE + 1)
    parts = [
        [x for conversation in part for x in exchanges_of(conversation, context_turns)]
        for part in (train, valid, test)
    ]
    known = {prompt_key(x.turns[-1]) for x in parts[0]}
    fresh = [[x for x in part if prompt_key(x.turns[-1]) not in known] for part in parts[1:]]
    if not (parts[0] and fresh[0]):
        raise UserError(
            f"data: {len(parts[0])} exchanges to train on and {len(fresh[0])} with another prompt "
            "to validate with; give more conversations or other fractions"
        )
    dropped = sum(map(len, parts[1:])) - sum(map(len, fresh))
    split = f"by conversation; left out of valid and test: {dropped} with a prompt of training"
    return ChatCorpus(name, tuple(parts[0]), tuple(fresh[0]), tuple(fresh[1]), split)


def _apart(conversations, held, seed, use):
    keys = [
        c.group or (prompt_key(c.turns[0]) if len(c.turns) == 2 else f"\0{number:09d}")
        for number, c in enumerate(conversations)
    ]
    return split_by_key(conversations, keys, held, seed, use)

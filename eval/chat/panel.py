"""Replies of a model to held-out prompts, as they came, and how varied they are."""

from collections.abc import Sequence
from typing import Any

from eval.chat.conversation import Conversation, Options, Reply
from jaxmodels.data.chat.exchange import Exchange

GREETING = "Hello, how are you?"  # the source's sample prompt (docs/systems.md, R-28)


def panel(model, exchanges: Sequence[Exchange], options: Options) -> list[dict[str, Any]]:
    """Return the model's reply to `GREETING` and to the prompt of each exchange.

    Args:
      model: a model that passes `eval.chat.conversation.check_model`.
      exchanges: the model reads the turns before their prompts as well.
      options: how replies are drawn.

    Returns:
      objects with prompt, expected (None for `GREETING`), reply, and ended, see `Reply`.
    """
    rows = []
    for x in (Exchange((GREETING,), ""), *exchanges):
        conversation = Conversation(model)
        *before, prompt = x.turns[(len(x.turns) + 1) % 2 :]  # from a user's turn on
        for said, answer in zip(before[::2], before[1::2], strict=True):
            conversation.answer(conversation.hear(said), answer)
        reply = Reply(model, conversation.hear(prompt), options)
        for _ in reply:
            pass
        row = {"prompt": prompt, "expected": x.response or None}
        rows.append(row | {"reply": reply.text, "ended": reply.ended})
    return rows


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Return distinct-n: different n-grams of words over all of them; None without any.

    Source: Li et al., arXiv 1510.03055.
    """
    words = [text.split() for text in texts]
    grams = [tuple(w[i : i + n]) for w in words for i in range(len(w) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None

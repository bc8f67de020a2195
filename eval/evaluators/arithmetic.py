"""Accuracy on the questions of the corpus "arithmetic", by operation and number of digits."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmodels.data.chat.arithmetic import NAME, kind_of
from jaxmodels.data.chat.exchange import Exchange


def arithmetic_scores(exchanges: Sequence[Exchange], exact: np.ndarray) -> dict[str, Any] | None:
    """Return the share of answers that are exactly right; a repeated question counts once.

    Args:
      exchanges: of any corpus.
      exact: bool (n,), whether the model writes the response of each under greedy decoding.

    Returns:
      all, and operation -> all and each number of digits; each is {"questions", "exact"}. None
      without questions of the corpus.
    """
    known: dict[str, bool] = {}
    for x, right in zip(exchanges, exact, strict=True):
        # A file named arithmetic.jsonl is a source of that name too, with other questions.
        if x.source == NAME and kind_of(x.turns[-1]):
            known[x.turns[-1]] = bool(right)
    if not known:
        return None
    kinds: dict[str, dict[int, list[bool]]] = {}
    for question, right in known.items():
        sign, digits = kind_of(question)
        kinds.setdefault(sign, {}).setdefault(digits, []).append(right)
    scores: dict[str, Any] = {"all": _share(list(known.values()))}
    for sign, found in kinds.items():
        by_digits = {str(digits): _share(found[digits]) for digits in sorted(found)}
        every = [right for results in found.values() for right in results]
        scores[sign] = {"all": _share(every), **by_digits}
    return scores


def _share(right: list[bool]) -> dict[str, Any]:
    return {"questions": len(right), "exact": sum(right) / len(right)}

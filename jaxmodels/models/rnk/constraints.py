"""Constraints that can be checked: the result of an arithmetic question, and one stop at the end.

They verify what was written and take no part in writing it: a model whose reply passes has not
reasoned, and drawing replies until one passes (`eval/chat`, --verify) is a search by trial. The
learned constraints of `planner.Refiner` are vectors; nothing checks them.
"""

import operator
import re
from collections.abc import Sequence
from fractions import Fraction

# At most 100 digits: none of a longer number is read. Thousands separators are whole or none.
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,100})(?!,?\d)(?:\.\d{1,100})?"
_SIGNED = rf"-?{_NUMBER}"
_START, _END = r"(?<![\w.,])", r"(?!\w|[.,]\d)"
# Also those that are not evaluated, so that a longer calculation is not read in part.
_OPERATOR = r"\s*(?:\*\*|[-+*/÷^x])\s*|\s+(?:plus|minus|times|divided by|over|mod)\s+"
_RUN = re.compile(rf"{_START}{_SIGNED}(?:(?:{_OPERATOR}){_SIGNED})+{_END}", re.A | re.I)
_PAIR = re.compile(rf"({_SIGNED})({_OPERATOR})({_SIGNED})", re.A | re.I)
_STATED = re.compile(rf"{_START}(minus\s+|negative\s+|-)?({_NUMBER}){_END}", re.A | re.I)
_APPLY = {
    **dict.fromkeys(("+", "plus"), operator.add),
    **dict.fromkeys(("-", "minus"), operator.sub),
    **dict.fromkeys(("*", "x", "times"), operator.mul),
}
# Without spaces, "-" and "x" join the numbers of dates, ranges and sizes, unless one of these or
# nothing stands before them.
_JOINS = ("-", "x", "X")
_ASKED = re.compile(r"(?:^|\bis|\bwhat'?s|\bcalculate|\bcompute|\bsolve)\s*$", re.I)
_LONGER = frozenset("()*/^%+-")  # beside a calculation: it is part of a longer one


def check_arithmetic(prompt: str, response: str) -> bool | None:
    """Return whether a response states the exact result of the prompt's calculation.

    Args:
      prompt: holds one a + b, a - b or a * b of numbers in digits: also plus, minus, times, x,
        thousands separators, decimals.
      response: states one number, besides repeating the calculation. Numbers in words are not read.

    Returns:
      None if the prompt holds no such calculation, or several.
    """
    prompt, response = _plain(prompt), _plain(response)
    runs = list(_RUN.finditer(prompt))
    asked = _pair(runs[0][0]) if len(runs) == 1 else None
    if asked is None:
        return None
    before, after = prompt[: runs[0].start()].rstrip(), prompt[runs[0].end() :].lstrip()
    joined = _PAIR.fullmatch(runs[0][0])[2] in _JOINS and not _ASKED.search(before)
    if joined or before[-1:] in _LONGER or after[:1] in _LONGER:
        return None
    left, apply, right = asked
    rest = _RUN.sub(lambda run: " " if _pair(run[0]) == asked else run[0], response)
    stated = {_value(("-" if sign else "") + number) for sign, number in _STATED.findall(rest)}
    return stated == {apply(left, right)}


def check_stops(stop_probabilities: Sequence[float], ends: Sequence[bool]) -> bool:
    """Return whether the stop head and the length of a response agree.

    Args:
      stop_probabilities: of each chunk of the response, in order.
      ends: whether the response ended within each chunk; all False if it was cut.

    Returns:
      True if exactly one chunk has a probability above 0.5, the last, and the response ended in it.
    """
    last = [False] * (len(ends) - 1) + [True]
    return [p > 0.5 for p in stop_probabilities] == [bool(end) for end in ends] == last


def _plain(text: str) -> str:
    """Return a text with the ASCII forms of the signs of minus and multiplication."""
    return text.translate({0x2212: "-", 0xD7: "*"})


def _pair(calculation: str):
    """Return (a, operation, b) of a calculation of two numbers, else None."""
    pair = _PAIR.fullmatch(calculation)
    apply = _APPLY.get(pair[2].strip().lower()) if pair else None
    return (_value(pair[1]), apply, _value(pair[3])) if apply else None


def _value(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))

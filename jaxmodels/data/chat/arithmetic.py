"""The generated corpus "arithmetic": additions and subtractions of whole numbers.

    482 + 57 -> 539        57 - 482 -> -425

Of a question of d digits one operand has d and the other is below 10^d, in either order. Brown et
al. (arXiv 2005.14165, section 3.9.1) have both below 10^d, so that their kinds overlap. The prompt
of a question of up to five digits fits into a chunk of 32 bytes.
"""

import operator
import re
from collections.abc import Iterator

from jaxmodels.data.chat.conversation import Conversation
from jaxmodels.data.random import random_words
from jaxmodels.errors import UserError

NAME = "arithmetic"
OPERATIONS = {"+": operator.add, "-": operator.sub}
MOST_DIGITS = 15  # a random word has 64 bits
DRAWS = 2  # block of the random words, see `random_words`; the split and the order use others

_QUESTION = re.compile(r"(\d+) ([+-]) (\d+)")


def generate_arithmetic(count: int, most_digits: int, seed: int) -> list[Conversation]:
    """Return questions with their answers, as many of each operation and number of digits.

    They are drawn independently: those of one digit repeat, so that training sees them as often as
    the others. All questions with the same two operands are one group of the split.

    Args:
      count: number of questions.
      most_digits: of an operand, up to `MOST_DIGITS`.
      seed: determines them.

    Raises:
      UserError: fewer questions than kinds, or operands too long.
    """
    if not 1 <= most_digits <= MOST_DIGITS:
        raise UserError(f"data.digits: must be in 1..{MOST_DIGITS}, got {most_digits}")
    kinds = [(sign, digits) for sign in OPERATIONS for digits in range(1, most_digits + 1)]
    if count < len(kinds):
        raise UserError(
            f"data.examples: {NAME!r} has {len(kinds)} kinds of questions; give {len(kinds)} or "
            f"more, got {count}"
        )
    return [
        conversation
        for number, (sign, digits) in enumerate(kinds)
        for conversation in _questions(
            sign, digits, (count + number) // len(kinds), seed=seed, stream=number
        )
    ]


def kind_of(prompt: str) -> tuple[str, int] | None:
    """Return (operation, digits of the longer operand) of a question, None for other prompts.

    >>> kind_of("57 - 482")
    ('-', 3)
    """
    found = _QUESTION.fullmatch(prompt)
    return (found[2], max(len(found[1]), len(found[3]))) if found else None


def _questions(
    sign: str, digits: int, count: int, *, seed: int, stream: int
) -> Iterator[Conversation]:
    longest, rest, swaps = random_words(seed, stream, 3 * count, block=DRAWS).reshape(3, count)
    low = 10 ** (digits - 1) if digits > 1 else 0
    high = 10**digits
    for a, b, swap in zip(longest, rest, swaps, strict=True):
        a, b = low + int(a) % (high - low), int(b) % high
        if swap % 2:
            a, b = b, a
        turns = f"{a} {sign} {b}", str(OPERATIONS[sign](a, b))
        group = "{} {}".format(*sorted((a, b)))
        yield Conversation(turns, (1,), NAME, "math", True, group)

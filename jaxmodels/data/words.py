"""Words of any alphabet, as regular expressions: letters, digits, and the marks on them.

Python's `\\w` and `isalnum` leave out combining marks (Unicode categories Mn and Mc), which cuts
words of Hindi, Tamil, Thai, and vocalized Arabic and Hebrew to pieces.
"""

import functools
import re
import sys
import unicodedata


@functools.cache
def marks() -> str:
    """Return the combining marks as ranges for a class of a regular expression."""
    ranges: list[list[int]] = []
    # Planes 2 to 13 have none; looking there takes longer than all the rest.
    for code in (*range(0x300, 0x20000), *range(0xE0000, min(0xE0200, sys.maxunicode))):
        if unicodedata.category(chr(code)) in ("Mn", "Mc"):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def words_of(text: str) -> list[str]:
    """Return the words of a text: letters and digits with their marks, without underscores."""
    template = r"[^\W_]+" if text.isascii() else r"(?:[^\W_]|[MARKS])+"
    return pattern(template, text).findall(text)


def pattern(template: str, text: str) -> re.Pattern:
    """Return a compiled pattern for a text, in which `MARKS`, inside of a class, stands for marks.

    >>> pattern(r"[\\wMARKS]+", "कि, ab").findall("कि, ab")
    ['कि', 'ab']
    """
    return _compiled(template, text.isascii())


@functools.cache
def _compiled(template: str, ascii: bool) -> re.Pattern:
    return re.compile(template.replace("MARKS", "" if ascii else marks()))  # marks are slow

"""Lexicons of predicates and closed-class words: the English one in `english.json`, or files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jaxmodels.cli import did_you_mean
from jaxmodels.data.readers.files import find_files, numbered_lines
from jaxmodels.errors import UserError

CATEGORIES = ("verb", "noun", "pronoun", "determiner", "preposition", "closed")


# Lower-case word -> (category, lemma); words not listed count as nouns. Categories: verb = a
# predicate; pronoun = an argument by itself; determiner = no verb follows; preposition = opens an
# oblique argument; noun = an argument; closed = never an argument.
Lexicon = Mapping[str, tuple[str, str]]


def builtin_lexicon() -> Lexicon:
    """Return the built-in lexicon: 230 English verbs in all forms, 200 closed-class words.

    Verbs mostly used as nouns are not in it.
    """
    words = json.loads(files(__package__).joinpath("english.json").read_text("utf-8"))
    entries = {}
    for item in words.pop("verb"):
        # Base form, then "d" for a regular past, or past and participle.
        base, *past = item.split(":")
        for form in _forms(base, past):
            entries[form] = ("verb", base)
    for category, listed in words.items():
        entries.update((word, (category, word)) for word in listed)
    return entries


def read_lexicon(paths: Sequence[str | Path] | str | Path) -> Lexicon:
    """Read a lexicon from files (`Data/complete_datasets`) plus the built-in closed-class words.

    A `.tsv` file begins with a header line: `word<TAB>category<TAB>lemma` for entries, or
    `subject<TAB>verb<TAB>object` for triples, which give nouns, verbs, nouns. A `.txt` file is a
    word list whose category is its file name up to the first `_`. Entries of files override
    built-in ones, later ones earlier ones. The built-in verbs are not used.

    Raises:
      UserError: a wrong header, category or number of columns; names file and line.
    """
    entries = {k: v for k, v in builtin_lexicon().items() if v[0] != "verb"}
    for file in find_files(paths, (".tsv", ".txt")):
        lines = numbered_lines(file)
        if file.suffix.lower() == ".txt":
            category = _category(file.stem.split("_")[0], f"{file}: file name")
            for _, word in lines:
                entries[word.strip().lower()] = (category, word.strip().lower())
            continue
        (_, header), *rows = lines
        columns = tuple(header.lower().split("\t"))
        if columns not in (("word", "category", "lemma"), ("subject", "verb", "object")):
            raise UserError(
                f"{file}:1: header must be word, category, lemma or subject, verb, object "
                f"(tab-separated), got {header!r}"
            )
        for number, row in rows:
            cells = [cell.strip().lower() for cell in row.split("\t")]
            if len(cells) != 3 or not all(cells):
                raise UserError(
                    f"{file}:{number}: expected 3 tab-separated cells "
                    f"({', '.join(columns)}), got {row!r:.60}"
                )
            if columns[0] == "word":
                entries[cells[0]] = (_category(cells[1], f"{file}:{number}"), cells[2])
            else:
                for word, category in zip(cells, ("noun", "verb", "noun"), strict=True):
                    # Listed words keep their category, e.g. pronouns in noun position.
                    if category == "verb" or word not in entries:
                        entries[word] = (category, word)
    return entries


def _category(name: str, place: str) -> str:
    name = name.lower()
    if name in CATEGORIES:
        return name
    raise UserError(f"{place}: unknown category {name!r}{did_you_mean(name, CATEGORIES)}")


def _forms(base: str, past: list[str]) -> list[str]:
    consonant_y = base.endswith("y") and base[-2] not in "aeiou"
    if base.endswith(("s", "x", "z", "ch", "sh", "go")):
        third = base + "es"
    else:
        third = base[:-1] + "ies" if consonant_y else base + "s"
    if past == ["d"]:
        ending = base[:-1] + "ied" if consonant_y else base + ("d" if base.endswith("e") else "ed")
        past = [ending]
    # The present participle is left out: it mostly names ("the building of").
    return [base, third, *past]

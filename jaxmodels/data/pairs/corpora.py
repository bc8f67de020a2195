"""Readers of corpora that have a format of their own: M2, TMX and Natural Questions.

    .m2     CoNLL-2014 and BEA-2019: a tokenized sentence, then edits by annotators; the
            question is the sentence, the answer what the first annotator makes of it
    .tmx    translation memories (OPUS): units with a segment in each of several languages
    NQ      Natural Questions, simplified: lines with document_text, question_text and annotations;
            context and question as one text, as SQuAD's

A malformed file raises a UserError that names the file and the line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jaxmodels.data.readers.files import read_text
from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError

Found = Iterator[tuple[str, Any, Any]]  # place, question, answer
NO_EDIT = "noop"
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
CODES = ("bpt", "ept", "it", "ph", "ut")  # of TMX: what they hold is markup, not text
NQ = ("document_text", "question_text", "annotations")


def m2_pairs(path: Path, unused: Unused) -> Found:
    """Yield each sentence of an .m2 file with its correction; blank lines separate sentences."""
    lines = enumerate(read_text(path).decode("utf-8").split("\n"), 1)
    for filled, block in itertools.groupby(lines, key=lambda line: bool(line[1].strip())):
        if filled:
            (number, first), *edits = block
            place = f"{path}:{number}"
            if not first.startswith("S "):
                raise UserError(f"{place}: expected a sentence, 'S ' and its tokens")
            tokens = first[2:].split()
            if corrected := _corrected(path, tokens, edits, unused):
                yield place, " ".join(tokens), corrected
            else:
                unused.add("sentences of which nothing is left", place)


def _corrected(path: Path, tokens: list[str], edits: Sequence, unused: Unused) -> str:
    """Return the tokens as the first annotator of their edits would have them."""
    chosen, own = None, []
    for number, line in edits:
        place, fields = f"{path}:{number}", line.rstrip("\r").removeprefix("A ").split("|||")
        try:
            begin, end = map(int, fields[0].split())
            kind, text, annotator = fields[1], fields[2], int(fields[5])
        except (ValueError, IndexError):
            begin = -2
        if not line.startswith("A ") or begin < -1:
            raise UserError(
                f"{place}: expected an edit, "
                "'A BEGIN END|||TYPE|||TOKENS|||REQUIRED|||-NONE-|||ANNOTATOR'"
            )
        chosen = annotator if chosen is None else chosen
        if annotator != chosen:
            unused.add("edits by further annotators", place)
        elif kind != NO_EDIT:
            if not 0 <= begin <= end <= len(tokens):
                raise UserError(f"{place}: an edit of the tokens {begin} to {end} of {len(tokens)}")
            own.append((begin, end, text.split() if text != "-NONE-" else [], place))
    result, at = [], 0
    for begin, end, words, place in sorted(own, key=lambda edit: edit[:2]):
        if begin < at:
            raise UserError(f"{place}: overlaps another edit of the same annotator")
        result += [*tokens[at:begin], *words]
        at = end
    return " ".join([*result, *tokens[at:]])


def tmx_pairs(path: Path, chosen: Sequence[str], unused: Unused) -> Found:
    """Yield the segments of each unit of a .tmx file in two languages.

    Args:
      path: the file.
      chosen: the languages, the answer's last, as "en" or "en-US"; () = the first two of a unit.
      unused: receives units without them, and further languages.
    """
    if chosen and len(chosen) != 2:
        raise UserError(f"{path}: config.data.columns: name two languages, got {len(chosen)}")
    try:
        root = ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not valid XML, {error}") from error
    units = list(root.iter("tu"))
    if not units:
        raise UserError(f"{path}: contains no unit of a translation memory, <tu>")
    for number, unit in enumerate(units, 1):
        place, texts = f"{path}: unit {number}", {}
        for variant in unit.iter("tuv"):
            language = (variant.get(LANGUAGE) or variant.get("lang") or "").lower()
            segment = variant.find("seg")
            text = " ".join(_text(segment).split()) if segment is not None else ""
            if text:
                texts.setdefault(language, text)
        names = [_spoken(name.lower(), texts) for name in chosen] or list(texts)[:2]
        if len(names) < 2 or None in names:
            unused.add("units without a segment in both languages", place)
            continue
        unused.add("segments in further languages", place, len(texts) - 2)
        yield place, texts[names[0]], texts[names[1]]


def _text(segment: ElementTree.Element) -> str:
    """Return the text of a segment without its markup, however deep it is nested."""
    parts, rest = [], [segment]
    while rest:
        found = rest.pop()
        if isinstance(found, str):
            parts.append(found)
            continue
        for child in reversed(found):
            rest += [child.tail or "", *([] if child.tag in CODES else [child])]
        parts.append(found.text or "")
    return "".join(parts)


def _spoken(name: str, texts: Mapping[str, str]) -> str | None:
    """Return the language of `texts` that a name means: itself, or a variant of it as en-us."""
    same = (language for language in texts if language.split("-")[0] == name)
    return name if name in texts else next(same, None)


def natural_question(row: Mapping[str, Any], place: str, unused: Unused) -> tuple[str, str] | None:
    """Return (context and question, answer) of a row of Natural Questions; None without an answer.

    The answer is the first short one, or yes or no; the context is its paragraph, the long answer.
    """
    try:
        tokens, annotation = row["document_text"].split(" "), row["annotations"][0]
        long, short = annotation["long_answer"], annotation["short_answers"]
        context = _between(tokens, long)
        answer = _between(tokens, short[0]) if short else annotation["yes_no_answer"].lower()
        question = str(row["question_text"])
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UserError(
            f"{place}: not a row of Natural Questions, {type(error).__name__}: {error}"
        ) from error
    if not context or answer in ("", "none"):
        unused.add("questions without an answer", place)
        return None
    unused.add("further answers to a question", place, len(short) - 1 if short else 0)
    return f"{context}\n{question}", answer


def _between(tokens: Sequence[str], span: Mapping[str, int]) -> str:
    """Return the words of a span of a document, whose tokens are words and tags."""
    begin, end = span["start_token"], span["end_token"]
    return " ".join(t for t in tokens[max(begin, 0) : max(end, 0)] if not t.startswith("<"))

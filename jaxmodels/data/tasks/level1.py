"""Level 1 tasks: translation by templates, an object as a sentence, facts."""

import itertools
import json
from collections.abc import Iterator, Sequence

from jaxmodels.data.pairs.rows import Pair
from jaxmodels.data.tasks import words

ARTICLES = {("m", False): "el", ("f", False): "la", ("m", True): "los", ("f", True): "las"}


def spanish_adjective(adjective: Sequence[str], gender: str, plural: bool) -> str:
    """Return the form that agrees with a noun in gender and number."""
    word = adjective[1 if gender == "m" else 2]
    return word + (("s" if word[-1] in "aeo" else "es") if plural else "")


def spanish_noun(noun: Sequence[str], plural: bool) -> str:
    """Return the noun with its definite article."""
    return f"{ARTICLES[noun[4], plural]} {noun[3 if plural else 2]}"


def translation() -> Iterator[Pair]:
    """Yield English-Spanish pairs of three templates; adjectives follow and agree with the noun."""
    for noun, plural in itertools.product(words.NOUNS, (False, True)):
        number, english = ("plural", noun[1]) if plural else ("singular", noun[0])
        with_article = spanish_noun(noun, plural)
        for first in words.ADJECTIVES:
            phrase = f"{with_article} {spanish_adjective(first, noun[4], plural)}"
            for second in words.ADJECTIVES:
                if second == first:
                    continue
                verb, verbo = ("are", "son") if plural else ("is", "es")
                predicate = spanish_adjective(second, noun[4], plural)
                yield _translated(
                    f"The {first[0]} {english} {verb} {second[0]}.",
                    f"{phrase} {verbo} {predicate}.",
                    ("is", number, noun[0], first[0], second[0]),
                )
            for place, lugar in words.PLACES:
                verb, verbo = ("are", "están") if plural else ("is", "está")
                yield _translated(
                    f"The {first[0]} {english} {verb} in the {place}.",
                    f"{phrase} {verbo} en {lugar}.",
                    ("in", number, noun[0], first[0], place),
                )
            for verb, verbo in words.VERBS:
                yield _translated(
                    f"{verb} the {first[0]} {english}.",
                    f"{verbo} {phrase}.",
                    ("verb", number, noun[0], first[0], verb),
                )


def _translated(english: str, spanish: str, combination: tuple[str, ...]) -> Pair:
    spanish = spanish[0].upper() + spanish[1:]
    return Pair(f"Translate to Spanish: {english}", spanish, "translation", combination)


def json_sentence() -> Iterator[Pair]:
    """Yield objects of four fields, in either order, and the sentence that describes each."""
    ages = range(18, 78, 3)
    combinations = itertools.product(words.NAMES, ages, words.CITIES, words.JOBS)
    for name, age, city, job in itertools.islice(combinations, 0, None, 41):  # of 240,000
        fields = {"name": name, "age": age, "city": city, "job": job}
        for order in (1, -1):
            text = json.dumps(dict(list(fields.items())[::order]), separators=(",", ":"))
            combination = (name, str(age), city, job)  # both orders have one answer
            answer = f"{name}, {age}, is a {job} in {city}."
            yield Pair(f"Tell: {text}", answer, "json_sentence", combination)


def factual() -> Iterator[Pair]:
    """Yield facts, each asked in eight wordings; a split holds out wordings, never facts."""
    for country, *facts in words.FACTS:
        for (attribute, wordings), answer in zip(words.QUESTIONS.items(), facts, strict=True):
            for number, wording in enumerate(wordings):
                combination = (f"{attribute} {number}", f"{attribute} of {country}")
                yield Pair(wording.format(country), answer, "factual", combination)


def seed_translation() -> Iterator[Pair]:
    """Yield the source's example set, five pairs 200 times each; a split by row leaks them all."""
    for english, spanish in words.SEED_PAIRS * 200:
        yield Pair(f"Translate to Spanish: {english}", spanish, "seed_translation", (english,))

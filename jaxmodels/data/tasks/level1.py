"""Level 1 (SYSTEMS L-35): translation by templates, an object as a sentence, facts."""

import itertools
import json
from collections.abc import Iterator

from jaxmodels.data.pairs.rows import Pair
from jaxmodels.data.tasks import words

QUESTIONS = {
    "capital": (
        "What is the capital of {}?",
        "Name the capital of {}.",
        "{}: which city is the capital?",
        "Tell me the capital of {}.",
        "Which city is the capital of {}?",
        "The capital of {} is what?",
        "Capital of {}?",
        "I forgot the capital of {}.",
    ),
    "continent": (
        "On which continent is {}?",
        "Name the continent of {}.",
        "{}: which continent?",
        "Tell me the continent of {}.",
        "Where in the world is {}?",
        "{} is on which continent?",
        "Continent of {}?",
        "I forgot where {} is.",
    ),
    "currency": (
        "What is the currency of {}?",
        "Name the currency of {}.",
        "{}: which currency?",
        "Tell me the currency of {}.",
        "How does one pay in {}?",
        "The money of {} is called what?",
        "Currency of {}?",
        "I forgot the money of {}.",
    ),
    "language": (
        "Which language is spoken in {}?",
        "Name the language of {}.",
        "{}: which language?",
        "Tell me the language of {}.",
        "What do people speak in {}?",
        "In {} they speak what?",
        "Language of {}?",
        "I forgot the language of {}.",
    ),
}
ARTICLES = {("m", False): "el", ("f", False): "la", ("m", True): "los", ("f", True): "las"}
SEED_PAIRS = (
    ("Hello", "Hola"),
    ("Goodbye", "Adiós"),
    ("Thank you", "Gracias"),
    ("Good morning", "Buenos días"),
    ("How are you?", "¿Cómo estás?"),
)


def spanish_adjective(adjective: tuple, gender: str, plural: bool) -> str:
    """It agrees with its noun in gender and number."""
    word = adjective[1 if gender == "m" else 2]
    return word + (("s" if word[-1] in "aeo" else "es") if plural else "")


def spanish_noun(noun: tuple, plural: bool) -> str:
    """With the definite article."""
    return f"{ARTICLES[noun[4], plural]} {noun[3 if plural else 2]}"


def translation() -> Iterator[Pair]:
    """English to Spanish, three templates; adjectives follow and agree with their noun."""
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
            for does, hace in words.VERBS:
                yield _translated(
                    f"{does} the {first[0]} {english}.",
                    f"{hace} {phrase}.",
                    ("verb", number, noun[0], first[0], does),
                )


def _translated(english: str, spanish: str, combination: tuple[str, ...]) -> Pair:
    spanish = spanish[0].upper() + spanish[1:]
    return Pair(f"Translate to Spanish: {english}", spanish, "translation", combination)


def json_sentence() -> Iterator[Pair]:
    """An object with four fields in either order, told in a sentence."""
    ages = range(18, 78, 3)
    every = itertools.product(words.NAMES, ages, words.CITIES, words.JOBS)
    for name, age, city, job in itertools.islice(every, 0, None, 41):  # of 240,000
        fields = {"name": name, "age": age, "city": city, "job": job}
        for order in ("forward", "backward"):
            items = list(fields.items())[:: 1 if order == "forward" else -1]
            text = json.dumps(dict(items), separators=(",", ":"))
            combination = (name, str(age), city, job)  # both orders have one answer
            answer = f"{name}, {age}, is a {job} in {city}."
            yield Pair(f"Tell: {text}", answer, "json_sentence", combination)


def factual() -> Iterator[Pair]:
    """A fact, asked for in one of eight ways; what is unseen is the way, never the fact."""
    for country, *facts in words.FACTS:
        for attribute, answer in zip(QUESTIONS, facts, strict=True):
            for number, form in enumerate(QUESTIONS[attribute]):
                combination = (f"{attribute} {number}", f"{attribute} of {country}")
                yield Pair(form.format(country), answer, "factual", combination)


def seed_translation() -> Iterator[Pair]:
    """The source's example set, five pairs 200 times each (L-38). A split by row leaks them all."""
    for english, spanish in SEED_PAIRS * 200:
        yield Pair(f"Translate to Spanish: {english}", spanish, "seed_translation", (english,))

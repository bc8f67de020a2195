"""Level 2 and 3 tasks: grammar correction, extraction, extractive summary."""

import itertools
from collections.abc import Iterator

from jaxmodels.data.pairs.rows import Pair
from jaxmodels.data.tasks import words

TIMES = ("yesterday", "last week", "every day", "on Mondays")
SENTENCES = (
    "{name} was born in {city} on {date}.",
    "On {date} {name} came to {city}.",
    "The letter of {name} reached {city} on {date}.",
    "{city}, {date}. {name} opened the meeting.",
)


def grammar() -> Iterator[Pair]:
    """Yield sentences whose verb may have the wrong person or tense, and their correction."""
    for (subject, third), forms, (place, _), time in itertools.product(
        words.SUBJECTS, words.ACTIONS, words.PLACES, TIMES
    ):
        past = time in TIMES[:2]
        right = forms[2] if past else forms[1 if third else 0]
        for form in forms:
            wrong = f"{subject} {form} to the {place} {time}."
            answer = f"{subject} {right} to the {place} {time}."
            combination = (subject, forms[0], place, time)  # all three have one answer
            yield Pair(f"Correct: {wrong}", answer, "grammar", combination)


def extraction() -> Iterator[Pair]:
    """Yield sentences, and the name and date in each."""
    days, years = range(1, 29, 3), range(1950, 2030, 4)
    dates = [
        (str(day), month, str(year)) for day in days for month in words.MONTHS for year in years
    ]
    for number, (first, last) in enumerate(itertools.product(words.NAMES, words.SURNAMES)):
        for step, date in enumerate(dates):
            if (step + 7 * number) % 101:  # a fraction of 1.4 million
                continue
            form = (number + step) % len(SENTENCES)
            city = words.CITIES[(3 * number + step) % len(words.CITIES)]
            name, when = f"{first} {last}", " ".join(date)
            text = SENTENCES[form].format(name=name, city=city, date=when)
            yield Pair(
                f"Name and date: {text}",
                f"{name}; {when}",
                "extraction",
                (str(form), first, last, *date, city),
            )


def summary() -> Iterator[Pair]:
    """Yield three sentences and, as answer, the one about a given topic."""
    topics = words.TOPICS
    for i, j in itertools.product(range(len(topics)), range(len(words.SAYINGS))):
        for shift in range(1, 13):
            others = [(i + shift) % len(topics), (i + 2 * shift + 1) % len(topics)]
            if len({i, *others}) < 3:
                continue
            sayings = [(j + k * shift) % len(words.SAYINGS) for k in range(3)]
            sentences = [
                words.SAYINGS[saying].format(topics[topic])
                for topic, saying in zip([i, *others], sayings, strict=True)
            ]
            sentences = [f"{text[0].upper()}{text[1:]}." for text in sentences]
            for place in range(3):
                order = [sentences[1], sentences[2]]
                order.insert(place, sentences[0])
                combination = (topics[i], str(j), str(shift), str(place))
                question = f"About {topics[i]}: {' '.join(order)}"
                yield Pair(question, sentences[0], "summary", combination)

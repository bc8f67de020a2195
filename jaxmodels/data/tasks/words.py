"""Word lists that fill the templates of the tasks, read from `words.json`.

Their order determines the order of the pairs.

    NOUNS       English singular and plural, Spanish singular and plural, gender
    ADJECTIVES  English, Spanish masculine and feminine singular; plurals add "s" or "es"
    PLACES      English, Spanish with the article that follows "en"
    VERBS       English with its subject, Spanish
    FACTS       country, capital, continent, currency, language
    QUESTIONS   attribute of a country -> its eight wordings
    SEED_PAIRS  English, Spanish
    ACTIONS     base form, third person, past
    SUBJECTS    subject, whether its verb takes the third person
"""

import json
from importlib.resources import files

_LISTS = json.loads(files(__package__).joinpath("words.json").read_text("utf-8"))

NOUNS, ADJECTIVES = _LISTS["nouns"], _LISTS["adjectives"]
PLACES, VERBS = _LISTS["places"], _LISTS["verbs"]
NAMES, SURNAMES = _LISTS["names"], _LISTS["surnames"]
CITIES, JOBS, MONTHS = _LISTS["cities"], _LISTS["jobs"], _LISTS["months"]
FACTS, QUESTIONS = _LISTS["facts"], _LISTS["questions"]
SEED_PAIRS = _LISTS["seed_pairs"]
ACTIONS, SUBJECTS = _LISTS["actions"], _LISTS["subjects"]
TOPICS, SAYINGS = _LISTS["topics"], _LISTS["sayings"]

"""Tasks: corpus, training stream and validation batches of an experiment.

A task is text (`text.py`) or questions with answers (`answers.py`), selected by
`config.data.format`; the loop uses only the opened `Task`.
"""

from ml_collections import ConfigDict

from jaxmodels.data import Corpus
from jaxmodels.data.pairs.rows import PairCorpus
from train.tasks.answers import open_answers, pairs_of
from train.tasks.fields import ANSWER_FORMATS
from train.tasks.task import Task
from train.tasks.text import corpus_of, open_text


def load_corpus(config: ConfigDict) -> Corpus | PairCorpus:
    """Read or generate the corpus of an experiment alone; raise UserError if invalid."""
    return pairs_of(config) if config.data.format in ANSWER_FORMATS else corpus_of(config)


def open_task(config: ConfigDict) -> Task:
    """Open the task of an experiment; raise UserError for invalid data."""
    return open_answers(config) if config.data.format in ANSWER_FORMATS else open_text(config)

"""Tasks: corpus, training stream and validation batches of an experiment.

A task is text (`text.py`), questions with answers (`answers.py`), conversations (`chat.py`) or rows
of a synthetic task (`synthetic.py`), selected by `config.data.format`; the loop uses only the
opened `Task`.
"""

from ml_collections import ConfigDict

from jaxmodels.data import Corpus
from jaxmodels.data.chat.exchange import ChatCorpus
from jaxmodels.data.pairs.rows import PairCorpus
from train.tasks.answers import open_answers, pairs_of
from train.tasks.chat import chat_of, open_chat
from train.tasks.fields import ANSWER_FORMATS, CHAT_FORMAT, SYNTHETIC_FORMAT
from train.tasks.synthetic import SyntheticCorpus, open_synthetic, synthetic_of
from train.tasks.task import Task
from train.tasks.text import corpus_of, open_text


def load_corpus(config: ConfigDict) -> Corpus | PairCorpus | ChatCorpus | SyntheticCorpus:
    """Read or generate the corpus of an experiment alone; raise UserError if invalid."""
    return _chosen(config, corpus_of, pairs_of, chat_of, synthetic_of)(config)


def open_task(config: ConfigDict) -> Task:
    """Open the task of an experiment; raise UserError for invalid data."""
    return _chosen(config, open_text, open_answers, open_chat, open_synthetic)(config)


def _chosen(config, text, answers, chat, synthetic):
    format = config.data.format
    kinds = dict.fromkeys(ANSWER_FORMATS, answers)
    return (kinds | {CHAT_FORMAT: chat, SYNTHETIC_FORMAT: synthetic}).get(format, text)

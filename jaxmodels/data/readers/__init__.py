"""Readers of dataset formats: one function per format, text to records."""

from jaxmodels.data.readers.files import TEXT_SUFFIXES, Record, find_files, read_text
from jaxmodels.data.readers.formats import FORMATS, Reader
from jaxmodels.data.readers.metacognition import make_metacognition
from jaxmodels.data.readers.reasoning import NUM_STEP_CLASSES, GSM8KItem, parse_gsm8k

__all__ = [
    "FORMATS",
    "NUM_STEP_CLASSES",
    "TEXT_SUFFIXES",
    "GSM8KItem",
    "Reader",
    "Record",
    "find_files",
    "make_metacognition",
    "parse_gsm8k",
    "read_text",
]

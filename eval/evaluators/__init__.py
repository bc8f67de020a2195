"""Evaluators of trained models, on text, on questions, on conversations and on synthetic tasks.

An evaluator is a module with two functions. `run(options, command)` evaluates the run in
`options.workdir` and returns an `Evaluation`; `summary(result)` formats its result as blocks of
`eval.report.document`. `options` holds the arguments of `python -m eval`.
"""

from types import ModuleType

from eval.log import read_log
from train.tasks.fields import ANSWER_FORMATS, CHAT_FORMAT, SYNTHETIC_FORMAT


def evaluator_of(workdir: str) -> ModuleType:
    """Return the evaluator for the run in a folder; raise UserError if it holds none."""
    format = read_log(workdir).config.get("data", {}).get("format")
    if format in ANSWER_FORMATS:
        from eval.evaluators import answers as evaluator
    elif format == CHAT_FORMAT:
        from eval.evaluators import chat as evaluator
    elif format == SYNTHETIC_FORMAT:
        from eval.evaluators import synthetic as evaluator
    else:
        from eval.evaluators import text as evaluator
    return evaluator

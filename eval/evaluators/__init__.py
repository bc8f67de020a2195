"""Evaluators: what a trained model scores on text, and on questions.

An evaluator is a module with two functions. `run(options, command)` measures the run in
`options.workdir`, writes its JSON and report, and returns the result; `summary(result)` returns it
as blocks of `eval.report.document`. `options` holds the arguments of `python -m eval`.
"""

from types import ModuleType

from eval.log import read_log
from train.tasks import AnswerTask


def of(workdir: str) -> ModuleType:
    """Return the evaluator of the run in a folder.

    Raises:
      UserError: the folder holds no run.
    """
    if AnswerTask.reads(read_log(workdir).config.get("data", {}).get("format")):
        from eval.evaluators import answers as evaluator
    else:
        from eval.evaluators import text as evaluator
    return evaluator

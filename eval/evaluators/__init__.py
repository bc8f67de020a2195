"""Evaluators of trained models, on text and on questions.

An evaluator is a module with two functions. `run(options, command)` evaluates the run in
`options.workdir`, writes JSON and a report, and returns the result; `summary(result)` formats it
as blocks of `eval.report.document`. `options` holds the arguments of `python -m eval`.
"""

"""Loading of a trained model: from its run's folder, with the text that it was trained on, or from
a folder of converted weights (docs/convert.md)."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import jaxmodels
from eval.log import json_object, read_log
from eval.markov import baselines
from jaxmodels.cli import quiet_absl, whole_number
from jaxmodels.data import ByteTokenizer, Corpus, label_classes, load_corpus
from jaxmodels.data.tokenizers.folder import check_size, has_tokenizer, is_read, read_tokenizer
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from jaxmodels.paths import is_dir, is_file, user_path
from train.config import complete_config, with_tuples
from train.io.checkpoint import TrainedModel, load_model
from train.tasks.fields import ANSWER_FORMATS, CHAT_FORMAT, SYNTHETIC_FORMAT
from train.tasks.text import corpus_of


@dataclass(frozen=True)
class Run(TrainedModel):
    """A trained run on text: its model, its folder, and the text, split as in training."""

    workdir: Path
    corpus: Corpus


def load_run(
    workdir: str | Path,
    *,
    checkpoint: str = "best",
    paths: tuple[str, ...] | None = None,
    base: str | Path | None = None,
) -> Run:
    """Load the model and the text of a run.

    Args:
        workdir: the run's folder.
        checkpoint: "best" by validation loss, "last", or a step.
        paths: other text to evaluate on; None = the text of the run.
        base: folder of the base of a tuned model; None = where it was in training.

    Raises:
        UserError: no run, no whole checkpoint, another base, or the text is gone.
    """
    trained, tokenizer = load_trained(workdir, checkpoint, base)
    config = trained.config
    if config.data.format == CHAT_FORMAT:
        raise UserError(
            f"--workdir={workdir}: expected a run on text, got one on conversations; "
            "use python -m eval or python -m eval.chat"
        )
    if config.data.format == SYNTHETIC_FORMAT:
        raise UserError(
            f"--workdir={workdir}: expected a run on text, got one on a synthetic task; "
            "use python -m eval"
        )
    if config.data.format in ANSWER_FORMATS:
        raise UserError(
            f"--workdir={workdir}: expected a run on text, got one that answers questions; "
            "use python -m eval or python -m eval.predict"
        )
    if not trained.data and paths is None:
        raise UserError(f"--workdir={workdir}: weights without a text; name one with --data")
    if paths is None:
        if is_read(config.data.tokenizer):  # the run's copy: the file may have gone or changed
            config = ConfigDict(config.to_dict())
            config.data.tokenizer = str(user_path(workdir).absolute())
        corpus = corpus_of(config)
        if corpus.fingerprint() != trained.data:
            raise UserError(
                f"config.data.paths: not the text that {workdir} was trained on; name the text to "
                "evaluate on with --data"
            )
    else:
        # Other text is read with the run's tokenizer: its vocabulary may have been fitted.
        data = config.data
        corpus = load_corpus(paths, tokenizer, format=data.format, max_unused=data.max_unused)
        if check_data := traits_of(trained.model).check_data:
            classes = label_classes(corpus.train + corpus.valid + corpus.test)
            check_data(config.data, config.seq_len, classes)
    return Run(**vars(trained), workdir=Path(workdir), corpus=corpus)


def load_trained(
    workdir: str | Path, checkpoint: str = "best", base: str | Path | None = None
) -> tuple[TrainedModel, Any]:
    """Load the model and the tokenizer of a run, without its training text.

    Args:
        workdir: the run's folder, or one of weights that `jaxmodels.convert.load` reads; then the
            step is 0, there is no loss, and what the config says of training are defaults.
        checkpoint, base: see `load_run`.

    Raises:
        UserError: no run, no whole checkpoint, or no tokenizer.
    """
    if is_weights(user_path(workdir, "--workdir=")):
        return _load_weights(user_path(workdir))
    if checkpoint not in ("best", "last") and whole_number(checkpoint) < 0:
        raise UserError(f"--checkpoint={checkpoint}: give best, last, or the number of a step")
    read_log(workdir)  # raises clearer errors about the folder than Orbax
    quiet_absl()  # Orbax warns about each item that is not restored
    trained = load_model(workdir, checkpoint, base=base)
    return trained, read_tokenizer(user_path(workdir))


def is_weights(folder: Path) -> bool:
    """Return whether a folder holds a model's weights, converted or not, rather than a run."""
    if not (is_dir(folder) and is_file(folder / "config.json")):
        return False
    return "model_config" not in json_object(folder / "config.json")  # a run's has it


def _load_weights(folder: Path) -> tuple[TrainedModel, Any]:
    from jaxmodels import convert

    model = convert.load(folder)
    fields = jaxmodels.config_to_dict(model.config)
    name = fields.pop("model")
    experiment = {key: fields.pop(key) for key in ("dtype", "seq_len") if key in fields}
    config = complete_config({"model": name, **experiment, "model_config": with_tuples(fields)})
    size = fields.get("vocab_size", 0)
    if has_tokenizer(folder):
        tokenizer = read_tokenizer(folder)
        if note := check_size(tokenizer, size, f"--workdir={folder}"):
            print(f"note: {note}", file=sys.stderr)
    elif size == 256:
        tokenizer = ByteTokenizer()
    else:
        raise UserError(
            f"--workdir={folder}: no tokenizer in this folder of weights; copy the model's "
            "tokenizer.json there"
        )
    config.data.tokenizer = str(folder.absolute()) if size != 256 else "byte"
    return TrainedModel(model, config, step=0, loss=None, averaged=False, data=""), tokenizer


def markov_baselines(corpus: Corpus) -> dict[str, dict[str, float]]:
    """Return split -> name -> bits per byte of byte-Markov models fitted on the training split.

    Raises:
        UserError: the tokenizer is not the byte tokenizer, or there is no training text.
    """
    if corpus.tokenizer.name != "byte":
        raise UserError(
            "byte-Markov baselines need the byte tokenizer; other tokens do not keep the bytes"
        )
    train = [document.tokens for document in corpus.train]
    held_out = {"valid": corpus.valid, "test": corpus.test}
    return {
        split: baselines(train, [np.asarray(document.tokens) for document in documents])
        for split, documents in held_out.items()
        if documents
    }

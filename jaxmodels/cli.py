"""Shared parts of the command lines: parser, exit statuses, hints, atomic writes.

Exit statuses: 0 success; 2 invalid input, reported in one line; 4 a full or failing disk, in one
line; 130 stopped by Ctrl-C. A command may return further statuses.
"""

import argparse
import contextlib
import difflib
import functools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxmodels.compile_cache import set_compilation_cache
from jaxmodels.errors import (
    DISK,
    REFUSED,
    DiskError,
    UserError,
    from_os,
    memory_reason,
    one_line,
)
from jaxmodels.output import unfailing_output
from jaxmodels.paths import is_dir, shown, temporary_beside, user_path
from jaxmodels.xla_flags import set_safe_flags

NOTHING_WRITTEN = "stopped; nothing was written"
RUN = "folder of a run, e.g. runs/prernk"  # help text of --workdir


def parser(
    prog: str,
    description: str,
    *,
    workdir: str | None = None,
    checkpoint: bool = False,
    **options,
) -> argparse.ArgumentParser:
    """Return the parser of `python -m <prog>`, without abbreviated options.

    Args:
      prog: name of the module, e.g. "eval.sample".
      description: text of --help; line breaks are kept.
      workdir: help text of a required --workdir; None = the command has none.
      checkpoint: add --checkpoint, by default "best", and --base.
      **options: further arguments of `argparse.ArgumentParser`.
    """
    built = argparse.ArgumentParser(
        prog=f"python -m {prog}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )
    if workdir is not None:
        built.add_argument("--workdir", action=ExpandPath, required=True, help=workdir)
    if checkpoint:
        built.add_argument("--checkpoint", default="best", help="best, last, or a step")
        help_base = "folder of the base of a tuned model, if it has moved"
        built.add_argument("--base", metavar="DIR", action=ExpandPath, help=help_base)
    return built


def parse_with_overrides(
    options: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of a command line, and its overrides `--config.field=value`.

    argparse takes an override with a space in its value for a path of the option before it. What
    is no option is returned among the overrides.
    """
    overrides, rest, words = [], [], list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--config."):
            rest.append(word)
            continue
        overrides.append(word)
        if "=" not in word and words and not words[0].startswith("--"):
            overrides.append(words.pop(0))
    flags, unknown = options.parse_known_args(rest)
    return flags, unknown + overrides


def command(
    *, interrupted: str = NOTHING_WRITTEN, prints: bool = False
) -> Callable[[Callable], Callable]:
    """Decorate `main(arguments) -> status or None` as a command line; see `run`.

    The decorated function takes the arguments of the command line, by default `sys.argv[1:]`.
    """

    def decorate(main):
        @functools.wraps(main)
        def shell(arguments: Sequence[str] | None = None) -> int:
            words = sys.argv[1:] if arguments is None else list(arguments)
            return run(lambda: main(words), interrupted=interrupted, prints=prints)

        return shell

    return decorate


def run(
    work: Callable[[], int | None], *, interrupted: str = NOTHING_WRITTEN, prints: bool = False
) -> int:
    """Call `work` and return the exit status: its own (None is 0), 2, 4 or 130.

    A UserError, an OSError about a path, a permission or a full disk, and one about memory that is
    not to be had print one line to standard error; Ctrl-C prints the line `interrupted` unless it
    is "". If standard output is closed, full or cannot show a character, work continues; see
    `output_lost`. With `prints`, for commands whose result is what they print, the status is then 4
    instead of 0 if a full or failing disk took none of it; a reader that has gone (`| head`) wants
    no more. Sets XLA's safe flags first, before JAX initializes its backends, and where it keeps
    compiled programs.
    """
    set_safe_flags()
    set_compilation_cache()
    with unfailing_output() as (out, _):
        status = _answered(work, interrupted)
    return DiskError.status if prints and out.failure and status == 0 else status


def _answered(work: Callable[[], int | None], interrupted: str) -> int:
    """Call `work` and return the exit status; see `run`."""
    try:
        return work() or 0
    except OSError as error:
        if error.errno not in (*DISK, *REFUSED):
            raise
        return _refused(from_os(error))
    except UserError as error:
        return _refused(error)
    except (MemoryError, RuntimeError) as error:
        if not (reason := memory_reason(error)):
            raise
        return _refused(UserError(f"not enough memory: {reason}; make the model or batch smaller"))
    except KeyboardInterrupt:
        if interrupted:
            print(interrupted, file=sys.stderr)
        return 130


def _refused(error: UserError) -> int:
    print(f"error: {one_line(str(error))}", file=sys.stderr)
    return error.status


def leave(status: int) -> NoReturn:
    """Exit with a status.

    After an error of the disk, threads of Orbax wait for minutes for one that has failed; the exit
    does not wait for them.
    """
    if status == DiskError.status:
        os._exit(status)
    sys.exit(status)


def output_lost() -> bool:
    """Return whether nobody reads standard output any more, e.g. to end endless output."""
    return getattr(sys.stdout, "lost", False)


class ExpandPath(argparse.Action):
    """Action of an option that names a path: `~` is expanded.

    Shells leave the `~` of `--workdir=~/runs/first` to the program.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        """Store the expanded path; raise UserError if it is empty, or the home is unknown."""
        flag = f"{option_string}=" if option_string else ""
        if str(values)[:1] in ("", "~"):  # others stay as they are: gs://bucket is told from a path
            values = type(values)(user_path(values, flag))
        setattr(namespace, self.dest, values)


class NewFile(ExpandPath):
    """Action of an option that names a file to write: its folder must exist.

    What takes minutes to measure is not to be refused when it is written.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        """Store the expanded path; raise UserError if it cannot be a file."""
        super().__call__(parser, namespace, values, option_string)
        path, flag = Path(getattr(namespace, self.dest)), f"{option_string}="
        if not is_dir(path.parent, flag):
            raise UserError(f"{flag}{values}: no folder {path.parent}; create it first")
        if is_dir(path, flag):
            raise UserError(f"{option_string}={values}: a folder; name a file")


def utf8(text: str, name: str) -> str:
    """Return a text of the command line; raise UserError if its bytes were no UTF-8.

    Python passes on such bytes as halves of surrogate pairs, which no tokenizer and no file takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name}: must be UTF-8, its symbol {error.start + 1} is not") from error
    return text


def whole_number(text: str) -> int:
    """Return the number that a text of ASCII digits writes, -1 for any other text.

    `str.isdigit` also holds for "²", which `int` refuses, as it does a text of 4,301 digits.
    """
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else -1


def did_you_mean(word: str, options: Iterable[str], cutoff: float = 0.4) -> str:
    """Return the end of a message about an unknown word: the nearest option, else all options.

    >>> did_you_mean("rkwv", ["rwkv", "mamba"])
    "; did you mean 'rwkv'?"
    >>> did_you_mean("x", ["rwkv", "mamba"])
    '; choose from: rwkv, mamba'
    """
    options = list(options)
    if close := difflib.get_close_matches(word, options, n=1, cutoff=cutoff):
        return f"; did you mean {close[0]!r}?"
    return choose_from(options)


def choose_from(options: Iterable[str]) -> str:
    """Return "; choose from: a, b", or "" without options."""
    listed = ", ".join(filter(None, options))
    return f"; choose from: {listed}" if listed else ""


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8) atomically: readers see the old contents or the new.

    Raises:
      UserError: the file cannot be written; DiskError: the disk is full.
    """
    path, temporary = user_path(path), None
    # A command or a path that is no UTF-8 holds surrogates.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a named pipe
            path.write_bytes(data)
            return
        path = path.resolve()  # write through symbolic links
        temporary = temporary_beside(path)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise from_os(error, f"{shown(path)}: cannot be written") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, **options) -> None:
    """Write a value as JSON with `write_atomically`; `options` of `json.dumps`."""
    write_atomically(path, json.dumps(value, indent=2, **options) + "\n")


def quiet_absl() -> None:
    """Silence Orbax's absl log messages below errors."""
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


def progress_counter(name: str, unit: str) -> Callable[[int, int], None] | None:
    """Return a counter (done, total) that redraws one line; None without a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{name}: {done:,} of {total:,} {unit}", end=end, file=sys.stderr, flush=True)

    return show

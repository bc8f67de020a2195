"""The shell that all command lines share: parser, exit statuses, hints, files written whole.

Exit statuses: 0 done; 2 a mistake in the input, told in one line; 130 stopped by Ctrl-C. A command
may return others of its own.
"""

import argparse
import contextlib
import difflib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jaxmodels.errors import UserError
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
    """Build the parser of `python -m <prog>`: text kept as written, no abbreviated options.

    Args:
      prog: the module that is run, e.g. "eval.sample".
      description: shown by --help with its line breaks.
      workdir: help text of a required --workdir; None = the command has none.
      checkpoint: add --checkpoint, by default "best".
      **options: of `argparse.ArgumentParser`.
    """
    built = argparse.ArgumentParser(
        prog=f"python -m {prog}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )
    if workdir is not None:
        built.add_argument("--workdir", required=True, help=workdir)
    if checkpoint:
        built.add_argument("--checkpoint", default="best", help="best, last, or a step")
    return built


def command(*, interrupted: str = NOTHING_WRITTEN) -> Callable[[Callable], Callable]:
    """Turn `main(arguments) -> status or None` into a command line; see `run`.

    The decorated function takes the words of the command line, by default `sys.argv[1:]`.
    """

    def decorate(main):
        @functools.wraps(main)
        def shell(arguments: Sequence[str] | None = None) -> int:
            given = sys.argv[1:] if arguments is None else list(arguments)
            return run(lambda: main(given), interrupted=interrupted)

        return shell

    return decorate


def run(work: Callable[[], int | None], *, interrupted: str = NOTHING_WRITTEN) -> int:
    """Call `work` and return the exit status: its own (None is 0), 2, or 130.

    A UserError becomes one line on standard error; Ctrl-C the line `interrupted`, if it is not "".
    Where the reader of standard output has gone (`| head`), the work continues unheard; see
    `output_lost`. Sets XLA's safe flags first, before JAX starts its backends.
    """
    set_safe_flags()
    with contextlib.redirect_stdout(_Output(sys.stdout)) as output:
        try:
            return work() or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            if interrupted:
                print(interrupted, file=sys.stderr)
            return 130
        finally:
            output.flush()


def output_lost() -> bool:
    """Return whether the reader of standard output has gone, e.g. to end an endless text."""
    return getattr(sys.stdout, "lost", False)


class _Output:
    """A text stream whose writes are dropped once its pipe is closed at the other end."""

    def __init__(self, stream):
        self.stream, self.lost = stream, False

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._attempt(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self.stream.flush)

    def _attempt(self, call, *arguments) -> None:
        try:
            call(*arguments)
        except BrokenPipeError:
            self.lost = True
            # What is still buffered goes there too, or Python complains about it when it exits.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())
            os.close(null)


def did_you_mean(word: str, options: Iterable[str], cutoff: float = 0.4) -> str:
    """Return the end of a message about an unknown word: the nearest option, else all of them.

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
    """Return "; choose from: a, b", or "" without any option."""
    listed = ", ".join(options)
    return f"; choose from: {listed}" if listed else ""


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8) that is whole at any moment: the old one or the new one.

    Raises:
      UserError: the file cannot be written.
    """
    path, temporary = Path(path), None
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a named pipe
            path.write_bytes(data)
            return
        path = path.resolve()  # a link stays a link
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def quiet_absl() -> None:
    """Silence what Orbax logs through absl about every file, below errors."""
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


def progress_counter(name: str, unit: str) -> Callable[[int, int], None] | None:
    """Return a counter (done, total) that redraws one line of a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{name}: {done:,} of {total:,} {unit}", end=end, file=sys.stderr, flush=True)

    return show

"""Standard output and error that cannot end the work.

A command may be piped into `head`, write to a full disk, have its terminal closed under it, or be
started without any output at all. Its work goes on; what cannot be told is escaped or dropped.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

# A full disk may have room again; a reader that has gone (EPIPE, EIO of a terminal) stays away.
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR)
GONE = (errno.EPIPE, errno.EBADF, errno.ENXIO)


class Output:
    """A text stream whose writes never raise.

    Args:
      stream: the stream, or None if the process was started with it closed.

    Attributes:
      lost: True once nobody can read what is written.
      failure: reason why text was dropped although somebody wanted it, e.g. of a full disk, or "".
    """

    def __init__(self, stream):
        self.lost, self.failure = stream is None, ""
        self._null = open(os.devnull, "w", encoding="utf-8") if stream is None else None
        self.stream = self._null or stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write as much of `text` as can be shown; return its length."""
        self._attempt(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush, as far as possible."""
        self._attempt(self.stream.flush)

    def _attempt(self, call, *arguments) -> bool:
        try:
            call(*arguments)
            return True
        except UnicodeEncodeError:
            encoding = getattr(self.stream, "encoding", None) or "ascii"
            escaped = arguments[0].encode(encoding, "backslashreplace").decode(encoding)
            return self._attempt(call, escaped)
        except ValueError:  # closed
            self.lost = True
        except OSError as error:
            terminal = error.errno == errno.EIO and _is_terminal(self.stream)
            if not (terminal or error.errno in GONE):
                self.failure = error.strerror or str(error)
            if error.errno not in PASSING:
                self.lost = True
                self._discard()
        return False

    def _discard(self) -> None:
        """Drop what is buffered: Python would report it as an error when it exits."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())
            os.close(null)
            self.stream.flush()

    def finish(self) -> str:
        """Flush for the last time; return why text was lost on the way, or ""."""
        if not self._attempt(self.stream.flush):
            self._discard()
        if self._null is not None:
            self._null.close()
        return self.failure


def _is_terminal(stream) -> bool:
    try:
        return stream.isatty()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def unfailing_output() -> Iterator[tuple[Output, Output]]:
    """Replace sys.stdout and sys.stderr by `Output`s while the block runs; yield them."""
    _open_standard_files()
    out, err = Output(sys.stdout), Output(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield out, err
        finally:
            if reason := out.finish():
                err.write(f"standard output: {reason}; part of the output is lost\n")
            err.finish()


def _open_standard_files() -> None:
    """Open /dev/null for each closed standard file.

    Otherwise the next file that is opened takes its number, and messages that libraries in C++
    write to their standard error end up in a checkpoint or a log.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number

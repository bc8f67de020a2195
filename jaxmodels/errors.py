"""Exceptions for what a command answers in one line, without a traceback."""

import errno
import os

# What a disk answers that is full, over its quota, beyond `ulimit -f`, or failing.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE)
# What a file system answers to a path or a permission; not ENOENT, which may be our mistake.
REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EMFILE,
    errno.ENFILE,
    errno.ETXTBSY,
)


class UserError(ValueError):
    """Invalid input. The message is one line that names the problem, its location and the fix.

    Command lines print it without a traceback and exit with `status`.
    """

    status = 2


class NotDifferentiable(UserError):
    """A derivative that a form of a cell or an op does not have.

    The message names the form and one that has the derivative.
    """


class DiskError(UserError):
    """A disk that is full, over its quota or failing: the input is valid, and so is a retry."""

    status = 4


def from_os(error: OSError, message: str = "") -> UserError:
    """Return the DiskError or UserError "message (reason)"; by default the message is the file."""
    message = message or str(error.filename or "a file")
    reason = error.strerror or str(error)
    kind = DiskError if error.errno in DISK else UserError
    return kind(f"{message} ({reason})")


REMEDIES = {
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "see to the disk",
    errno.ESTALE: "see to the disk",
}


def disk_remedy(message: str) -> str:
    """Return what helps against what a disk has said in a message."""
    found = (text for number, text in REMEDIES.items() if os.strerror(number) in message)
    return next(found, "free some space")


def disk_reason(error: BaseException | None) -> str:
    """Return what the file system said, "" if an exception and its causes are about something else.

    Libraries in C++ report an error of the system as text in an exception of their own.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (*DISK, *REFUSED, errno.ENOENT):
            return error.strerror or os.strerror(error.errno)
        text = str(error)
        for number in (*DISK, *REFUSED, errno.ENOENT):
            if os.strerror(number) in text or f"[OS error {number}:" in text:
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return ""


# What XLA calls memory of a device or of the host that is not to be had.
EXHAUSTED = ("RESOURCE_EXHAUSTED", "Out of memory")


def memory_reason(error: BaseException) -> str:
    """Return what was too large for the memory, "" if an exception is about something else.

    NumPy names the size and the shape of the array, XLA the bytes.
    """
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError):
        return text or "an object of Python"
    exhausted = isinstance(error, RuntimeError) and any(word in text for word in EXHAUSTED)
    return text if exhausted else ""


LONGEST = 1000  # symbols of a message; what was given for a value may be a book


def one_line(text: str) -> str:
    """Return a message in one line, whatever a file in it is called: `\\n` for a line break.

    A very long one is shortened in the middle.
    """
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 5]} ... {text[-half:]}"

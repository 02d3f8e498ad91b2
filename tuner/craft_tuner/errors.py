"""What can go wrong for a user of the tuner, and the exit code of each kind.

    CraftTunerError        1   root; never raised itself
    ├── UsageError         2   a flag, a config file or an adapter file is not usable
    │   └── DataError      2   the images or their labels are not usable
    │       ├── PictureError 2 one image is not usable; the others may be
    │       │   └── PackageMissing 2 its format needs a package that is not installed
    │       └── InputError   2 what was given to the Python interface; a ValueError as well
    ├── ServerUnreachable  3   no answer, or not from a craft-server
    │   ├── NoAnswer       3   a call did not get through, however often it was sent
    │   └── NoSuchCall     3   the server has no such call: it is older
    ├── AccessDenied       4   the key is missing, wrong, expired or lacks a right
    ├── BudgetExhausted    5   the plan or the next question costs more than the key has left
    ├── WrongModel         6   an adapter or a run belongs to another model
    ├── RunError           7   a run directory is in use, damaged or of another configuration
    └── FitDiverged        8   the numbers of a fit are no longer finite

Messages are for people: what was wrong, the value, what is allowed, what to do. A command prints
the message without a traceback and exits with the code.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_LAYOUT = "\n\t"
_DIRECTIONS = [*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
"""Marks that make a terminal show text in another order than it has."""
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in [
        *range(0x20),
        *range(0x7F, 0xA0),
        *(0x2028, 0x2029),
        *_DIRECTIONS,
        *range(0xD800, 0xE000),  # bytes of a name that were no text
    ]
    if chr(code) not in _LAYOUT
}


def printable(text: str) -> str:
    """Text from anywhere as a terminal may have it: control characters as escapes, lines stay.

    A server's words, file names and class names may hold codes that clear a screen, set its title
    or hide what stands before them.
    """
    return text.translate(_ESCAPES)


_JSON_ESCAPES = {
    code: f"\\u{code:04x}" for code in _ESCAPES if code >= 0x7F
}  # the lower ones are escapes in JSON already


def json_printable(text: str) -> str:
    """JSON as a terminal may have it: the same values, control characters as escapes."""
    return text.translate(_JSON_ESCAPES)


class CraftTunerError(Exception):
    """Root of the exceptions of craft_tuner; `str(error)` is the sentence for the user.

    Attributes:
        param: the part of a request that a server refused, as it names it (`Problem.param`), such
            as `files[2]`; None where it names none, or no server refused.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, *args: object, param: str | None = None) -> None:
        super().__init__(*args)
        self.param = param

    @property
    def message(self) -> str:
        """The sentence for the user, safe on a terminal."""
        return printable(str(self))


class UsageError(CraftTunerError):
    """The user's flags, configuration or data cannot be used as they are."""

    exit_code = 2


class DataError(UsageError):
    """The images or their labels cannot be used as they are."""


class PictureError(DataError):
    """One image cannot be used; `picture` is its name, and others may go on without it."""

    def __init__(self, sentence: str, *, picture: str) -> None:
        super().__init__(sentence)
        self.picture = picture


class PackageMissing(PictureError):
    """A package reads the image's format, and is not installed: "HEIC, which needs pillow-heif"."""

    def __init__(self, needed: str, *, picture: str) -> None:
        super().__init__(
            f"the image {picture} is {needed}: install that, or convert the image to PNG or JPEG",
            picture=picture,
        )
        self.needed = needed


class InputError(DataError, ValueError):
    """What a Python program passed is not usable; a ValueError, as scikit-learn wants it."""


class ServerUnreachable(CraftTunerError):
    """The server did not answer, or what answered is not a craft-server."""

    exit_code = 3


class NoAnswer(ServerUnreachable):
    """A call did not get through; a smaller one may."""


class NoSuchCall(ServerUnreachable):
    """The server does not know this call: it is older than the tuner."""


class AccessDenied(CraftTunerError):
    """The key does not open this server, model or call."""

    exit_code = 4


class BudgetExhausted(CraftTunerError):
    """What is asked costs more than the key has left; nothing was charged for the refused call."""

    exit_code = 5


class WrongModel(CraftTunerError):
    """An adapter or a run was made with another model than the one at hand."""

    exit_code = 6


class RunError(CraftTunerError):
    """A run directory cannot be used: missing, locked, damaged or of another configuration."""

    exit_code = 7


class FitDiverged(CraftTunerError):
    """The fitness or the head's loss is not a finite number; the last good adapter is kept."""

    exit_code = 8


_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that this user may use",
    errno.EPERM: "choose a place that this user may use",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def disk_words(error: OSError) -> str:
    """What the operating system refused, of which file, and what helps."""
    reason = error.strerror or str(error) or type(error).__name__
    file = f" ({error.filename})" if error.filename is not None else ""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{reason}{file}" + (f"; {remedy}" if remedy else "")


@contextmanager
def disk_errors_as(kind: type[CraftTunerError], what: str) -> Iterator[None]:
    """Turn what the operating system refuses into an error of this kind; `what` could not be done.

    Raises:
        CraftTunerError: of this kind.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {disk_words(error)}") from error

"""Text from elsewhere (file contents, paths, answers of models, errors of libraries) as it may be shown to people."""

import re

_IN_URL = re.compile(r"(://[^/@\s:]*):[^/\s]*@")
_IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd)=)[^&\s'\"]+", re.IGNORECASE)


def as_line(message: str) -> str:
    """A message as the one harmless line that it is to be."""
    return plain(hide_passwords(" ".join(message.split())))


def plain(text: str) -> str:
    r"""The text with whatever is not printable as an escape, so that it cannot move a cursor or reorder what is read.

    That is control characters, escape sequences of terminals, line separators, marks that turn the direction of
    writing, and halves of surrogate pairs; an escape character becomes the four characters ``\x1b``.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def hide_passwords(text: str) -> str:
    """The text with ``***`` in place of every password of a URL."""
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub(r"\1:***@", text))

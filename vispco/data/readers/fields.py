"""Rows from named fields, whatever file they stand in."""

import string
from collections.abc import Mapping
from typing import Any

from vispco.data.readers.base import Unusable
from vispco.data.samples import Picture, Row

MAX_TEXT = 100_000
"""Longest text of a field in characters."""

LETTERS = tuple(string.ascii_uppercase)

FIELDS = frozenset(
    {"question", "answer", "answers", "index", "options", "hint", "category", "l2-category", "split", *LETTERS}
)
"""What a row is made of, beside its picture."""


def make_row(fields: Mapping[str, Any], place: str, number: int, picture: Picture) -> Row:
    """The row that fields tell of.

    Parameters
    ----------
    fields : mapping
        ``question``, and ``answer`` or ``answers`` (a list), are needed. There may be ``index`` (else ``number``),
        ``options`` (texts by letter, or a list) or fields ``A`` to ``Z``, ``hint``, ``category`` or, without it,
        ``l2-category`` (the slice), and ``split``. What is None is not there.
    place : str
    number : int
        Of the row in its table.
    picture : Picture

    Raises
    ------
    Unusable
        If a needed field is missing, or one has no such value.
    """
    question = _text(fields, "question")
    if question is None:
        raise Unusable("there is no question")
    return Row(
        index=_optional(fields, "index", number=True) or str(number),
        place=place,
        picture=picture,
        question=question,
        answers=_answers(fields),
        options=_options(fields),
        hint=_optional(fields, "hint"),
        slice=_optional(fields, "category") or _optional(fields, "l2-category") or "all",
        split=_optional(fields, "split"),
    )


def is_number(value: Any) -> bool:
    """Whether a value stands for a number; truth values do not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(fields: Mapping[str, Any], name: str, *, number: bool = False) -> str | None:
    """A field's text, or None; ``number`` allows for numbers."""
    value = fields.get(name)
    if value is None:
        return None
    return _checked(str(value) if number and is_number(value) else value, name)


def _checked(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Unusable(f"{name} is {type(value).__name__}, not text; give text")
    if len(value) > MAX_TEXT:
        raise Unusable(f"{name} has {len(value)} characters, more than {MAX_TEXT}; shorten it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unusable(f"{name} is not valid UTF-8; store it again") from None
    return value


def _optional(fields: Mapping[str, Any], name: str, *, number: bool = False) -> str:
    """A field's text, empty if there is none; a missing value that pandas has printed is none."""
    text = _text(fields, name, number=number) or ""
    return "" if text.lower() == "nan" else text


def _answers(fields: Mapping[str, Any]) -> tuple[str, ...]:
    several = fields.get("answers")
    if several is None:
        answer = _text(fields, "answer", number=True)
        if answer is None:
            raise Unusable("there is no answer; give answer or answers")
        return (answer,)
    if not isinstance(several, list | tuple) or not several:
        raise Unusable(f"answers is {several!r:.60}, not a list of at least one text")
    return tuple(_checked(str(each) if is_number(each) else each, "an answer") for each in several)


def _options(fields: Mapping[str, Any]) -> dict[str, str]:
    given = fields.get("options")
    if given is None:
        given = {letter: fields[letter] for letter in LETTERS if letter in fields}
    elif isinstance(given, list | tuple):
        if len(given) > len(LETTERS):
            raise Unusable(f"there are {len(given)} options, more than {len(LETTERS)} letters")
        given = dict(zip(LETTERS, given, strict=False))
    if not isinstance(given, Mapping) or not all(letter in LETTERS for letter in given):
        raise Unusable(f"options is {given!r:.60}; give a list, or texts by letters A to Z")
    texts = {letter: _optional(given, letter, number=True) for letter in given}
    return {letter: text for letter, text in texts.items() if text}

"""Instructions in the manner of LLaVA: one JSON list of conversations, and a folder of image files."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from vispco.data.readers.array import read_array
from vispco.data.readers.base import Broken, Found, Pictureless, Unusable
from vispco.data.readers.fields import make_row
from vispco.data.readers.pictures import Folder, single
from vispco.errors import DataError

IMAGE = "<image>"
"""Stands for the picture in a text; the model's own template puts the picture first."""


def read_llava(path: Path, images: Path | None = None) -> Iterator[Found]:
    """One row per entry: its first question and answer; what is said later would need the talk before it.

    An entry has ``image``, the name of a file, and ``conversations``: messages ``{"from": "human", "value": ...}`` and
    ``{"from": "gpt", ...}`` in turns. It may have ``id``, ``category`` and ``split``. Without ``image``, which is usual
    in this format, it is passed over.

    Raises
    ------
    DataError
        If the file cannot be read, or is no JSON list from some line on.
    """
    folder = Folder(path, images)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, (line, entry) in enumerate(read_array(file), start=1):
                place = f"{path}, line {line}, entry {number}"
                try:
                    yield _row(entry, place, number, folder)
                except Unusable as error:
                    yield Broken(place, str(error))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); give one JSON list, or data.reader=jsonl for one object per line"
        ) from None


def _row(entry: Any, place: str, number: int, folder: Folder) -> Found:
    if not isinstance(entry, Mapping):
        raise Unusable(f"it is {type(entry).__name__}, not a JSON object")
    image = single(entry.get("image"))
    if image is None:
        return Pictureless(place)
    if not isinstance(image, str):
        raise Unusable(f"image is {type(image).__name__}, not text; give the name of a file")
    question, answer = _first(entry.get("conversations"))
    if question.count(IMAGE) > 1:
        raise Unusable(f"the question is about {question.count(IMAGE)} pictures; one picture per question is supported")
    fields = {
        "index": entry.get("id"),
        "question": question.replace(IMAGE, "").strip(),
        "answer": answer,
        "category": entry.get("category"),
        "split": entry.get("split"),
    }
    return make_row(fields, place, number, folder.picture(image))


def _first(messages: Any) -> tuple[str, str]:
    """What the human says first, and what the model says to it."""
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise Unusable("conversations is no list of messages")
    said = [(message.get("from"), message.get("value")) for message in messages]
    for (speaker, question), (replier, answer) in pairwise(said):
        if speaker == "human" and replier == "gpt":
            if not isinstance(question, str) or not isinstance(answer, str):
                raise Unusable("a message has no text in value")
            return question, answer
    raise Unusable("conversations has no message from human that one from gpt follows")

"""Rows of tables, and the samples that they become."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image

from vispco.errors import DataError

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""
MAX_BYTES = 2**26
"""Longer image files are refused before they are opened."""
MAX_ASPECT = 200
"""Longest side over the shortest, at most. Processors of fixed height would make a ribbon of gigabytes of more."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What an image file may be; Pillow's other formats run programs, or parse what nobody stores pictures in."""


@dataclass(frozen=True)
class Picture:
    """An encoded image, in memory or in a file; decoded on demand, so that a data set fits into memory.

    Attributes
    ----------
    source : bytes or Path
    """

    source: bytes | Path = field(repr=False)

    @property
    def encoded(self) -> bytes:
        """The bytes of the image file; OSError if it cannot be read."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()

    def digest(self) -> str:
        """Identifies the picture by its bytes; computed once."""
        return self._digest

    def size(self) -> tuple[int, int]:
        """Width and height, without decoding the pixels; looked up once.

        Raises
        ------
        ValueError
            If it is no image, cannot be read, has more than :data:`MAX_PIXELS`, is longer than :data:`MAX_BYTES`, or
            narrower than :data:`MAX_ASPECT` allows.
        """
        return self._size

    def open(self) -> Image.Image:
        """The image, of which only the header was read; OSError, ValueError or SyntaxError if that cannot be done."""
        return Image.open(io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source, formats=FORMATS)

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.encoded).hexdigest()

    @cached_property
    def _size(self) -> tuple[int, int]:
        try:
            length = len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size
            if length <= MAX_BYTES:
                with self.open() as image:
                    width, height = image.size
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise ValueError(f"image cannot be decoded ({error}); store PNG or JPEG") from None
        if length > MAX_BYTES:
            raise ValueError(f"image of {length} bytes is over the limit of {MAX_BYTES}; shrink it")
        if width * height > MAX_PIXELS:
            raise ValueError(f"image of {width} x {height} pixels is over the limit of {MAX_PIXELS}; shrink it")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ValueError(
                f"image of {width} x {height} pixels is longer than {MAX_ASPECT} times its other side; crop or pad it"
            )
        return width, height


@dataclass(frozen=True)
class Row:
    """One row of a table, as its reader found it.

    Attributes
    ----------
    index : str
        Identifies the row within its table.
    place : str
        File and line, for messages.
    picture : Picture
    question : str
    answers : tuple of str
        All references, at least one.
    options : mapping of str to str
        Texts of the options by their letters, in order; empty for open questions.
    hint : str
        Context of the question.
    slice, split : str
        Empty if the table has none.
    """

    index: str
    place: str
    picture: Picture
    question: str
    answers: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""
    slice: str = "all"
    split: str = ""


@dataclass(frozen=True)
class Sample:
    """One question about one image.

    Attributes
    ----------
    index : str
        Identifies the sample within its data set.
    picture : Picture
    question : str
        Text of the prompt, without the chat template.
    answer : str
        Reference that the unpruned model's distribution is read along.
    slice : str
        Task slice that scores are reported by.
    split : str
        Empty if it belongs to none.
    answers : tuple of str
        All references, if there are several.
    options : tuple of (letter, text)
        Of a multiple-choice question.
    """

    index: str
    picture: Picture
    question: str
    answer: str
    slice: str
    split: str = ""
    answers: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        """All references, at least one."""
        return self.answers or (self.answer,)

    @property
    def image(self) -> Image.Image:
        """The decoded RGB image, which is not kept; DataError if its pixels are damaged."""
        try:
            return self.picture.open().convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"sample {self.index}: image cannot be decoded ({error}); store it again") from None


def data_fingerprint(samples: Sequence[Sample], scorer: str = "") -> str:
    """Digest of what samples show, ask and accept, and of what judges the answers; 16 hexadecimal digits."""
    digest = hashlib.sha256(scorer.encode())
    for sample in samples:
        parts = (sample.index, sample.question, sample.answer, repr(sample.references), repr(sample.options))
        for part in (sample.picture.encoded, *(part.encode() for part in parts)):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]

"""Shapes world: a deterministic visual question answering data set that asks for particular tokens.

A scene is a textured 80 x 80 image on a 5 x 5 grid of cells: one to six coloured shapes, one real handwritten digit
(UCI optical recognition of handwritten digits, as shipped by scikit-learn) and grey scribbles that mean nothing.
Eight slices of questions stand for what token pruning hurts differently; every answer is one word.

Splits are disjoint twice over: scenes by their seed, digits by the handwritten sample.
"""

import base64
import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

CELL = 16
"""Side of a grid cell in pixels."""
GRID = 5
"""Cells per row and per column."""
SIZE = CELL * GRID
"""Side of an image in pixels."""

COLORS = {
    "red": (214, 45, 40),
    "green": (40, 160, 60),
    "blue": (45, 85, 215),
    "yellow": (235, 205, 45),
    "purple": (150, 60, 175),
    "orange": (240, 130, 30),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "validation", "test")
COLUMNS = ("index", "image", "question", "answer", "category", "split")
"""Columns of the table that :func:`write_tsv` writes, in the manner of VLMEvalKit."""

Cell: TypeAlias = tuple[int, int]
Question: TypeAlias = tuple[str, str]


class Thing(NamedTuple):
    """One coloured shape and the (row, column) of its cell."""

    shape: str
    color: str
    cell: Cell


@dataclass(frozen=True)
class Scene:
    """What is in an image: its shapes, its digit and the grey scribbles between them."""

    things: tuple[Thing, ...]
    digit: int
    digit_sample: int
    digit_cell: Cell
    scribbles: tuple[Cell, ...]

    def count(self, attribute: str) -> Counter[str]:
        """How often each value of ``attribute`` ("shape" or "color") occurs."""
        return Counter(getattr(thing, attribute) for thing in self.things)

    def unique(self, attribute: str) -> list[Thing]:
        """The things that are alone with their value of ``attribute``."""
        counts = self.count(attribute)
        return [thing for thing in self.things if counts[getattr(thing, attribute)] == 1]


def draw_scene(rng: np.random.Generator, split: str, most: int = 6) -> Scene:
    """Compose a random scene with one to ``most`` shapes, its digit from the samples of ``split``."""
    labels = _digits()[1]
    sample = int(rng.choice(_digit_split(split)))
    number = int(rng.integers(1, most + 1))
    scribbles = int(rng.integers(0, 4))
    places = [(int(p) // GRID, int(p) % GRID) for p in rng.permutation(GRID * GRID)[: number + 1 + scribbles]]
    things = tuple(
        Thing(SHAPES[rng.integers(len(SHAPES))], list(COLORS)[rng.integers(len(COLORS))], cell)
        for cell in places[:number]
    )
    return Scene(things, int(labels[sample]), sample, places[number], tuple(places[number + 1 :]))


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Paint ``scene`` with a random texture, sizes and offsets; uint8 array of shape (80, 80, 3)."""
    ramp = np.linspace(-1.0, 1.0, SIZE)
    ground = rng.uniform(90, 150, 3) + np.add.outer(ramp * rng.uniform(-25, 25), ramp * rng.uniform(-25, 25))[..., None]
    image = ground + rng.normal(0.0, 9.0, (SIZE, SIZE, 1))
    for thing in scene.things:
        masks = _shape_masks(thing.shape)
        color = np.array(COLORS[thing.color]) + rng.normal(0.0, 8.0, 3)
        _paste(image, thing.cell, masks[rng.integers(len(masks))], color)
    for cell in scene.scribbles:
        masks = _scribble_masks()
        _paste(image, cell, masks[rng.integers(len(masks))], np.full(3, rng.uniform(30, 230)))
    paste_digit(image, scene.digit_cell, scene.digit_sample, rng)
    return np.clip(image, 0, 255).astype(np.uint8)


def paste_digit(image: np.ndarray, cell: Cell, sample: int, rng: np.random.Generator) -> None:
    """Paint handwritten ``sample`` as dark ink on a light tile into ``cell`` of ``image``, in place."""
    paper = 235 - 12.5 * _digits()[0][sample][..., None] + rng.normal(0.0, 4.0, (CELL, CELL, 1))
    top, left = (CELL * c for c in cell)
    image[top : top + CELL, left : left + CELL] = np.clip(paper, 0, 255)


def _paste(image: np.ndarray, cell: Cell, mask: np.ndarray, color: np.ndarray) -> None:
    top, left = (CELL * c for c in cell)
    window = image[top : top + CELL, left : left + CELL]
    window += mask[..., None] * (color - window)


# --- questions: one function per slice, None where the scene cannot be asked -----------------------------------------


def _pick(rng: np.random.Generator, options: list[Thing]) -> Thing | None:
    return options[rng.integers(len(options))] if options else None


def ask_color(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Attribute: the colour of a shape that occurs once."""
    thing = _pick(rng, scene.unique("shape"))
    return thing and (f"what color is the {thing.shape} ?", thing.color)


def ask_shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Category: the shape of a colour that occurs once."""
    thing = _pick(rng, scene.unique("color"))
    return thing and (f"what shape is {thing.color} ?", thing.shape)


def ask_count(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Counting: all shapes, or those of one kind or colour; the count is drawn first, so that zero does not rule."""
    kinds = [("shapes", len(scene.things))]
    for attribute, values, plural in (("shape", SHAPES, "{} shapes"), ("color", COLORS, "{} shapes")):
        counts = scene.count(attribute)
        kinds += [(plural.format(value), counts[value]) for value in values]
    target = rng.choice(sorted({count for _, count in kinds}))
    matching = [name for name, count in kinds if count == target]
    return f"how many {matching[rng.integers(len(matching))]} ?", NUMBERS[target]


def ask_existence(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Existence: is a colour-shape pair there; a "no" mixes the colour of one thing with the shape of another."""
    present = {(thing.color, thing.shape) for thing in scene.things}
    if rng.random() < 0.5:
        options = sorted(present)
        answer = "yes"
    else:
        mixed = {(a.color, b.shape) for a in scene.things for b in scene.things} - present
        options = sorted(mixed or {(color, shape) for color in COLORS for shape in SHAPES} - present)
        answer = "no"
    color, shape = options[rng.integers(len(options))]
    return f"is there a {color} {shape} ?", answer


def ask_position(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Position: row or column, counted from one, of a shape that occurs once."""
    thing = _pick(rng, scene.unique("shape"))
    axis = int(rng.integers(2))
    return thing and (f"which {('row', 'column')[axis]} is the {thing.shape} in ?", NUMBERS[thing.cell[axis] + 1])


def ask_reading(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Reading: the handwritten digit."""
    return "what digit is written ?", NUMBERS[scene.digit]


def ask_relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Spatial relation: which of two shapes that occur once each is higher, two rows or more apart."""
    things = scene.unique("shape")
    pairs = [(a, b) for a in things for b in things if abs(a.cell[0] - b.cell[0]) > 1]
    if not pairs:
        return None
    first, second = pairs[rng.integers(len(pairs))]
    answer = "yes" if first.cell[0] < second.cell[0] else "no"
    return f"is the {first.shape} above the {second.shape} ?", answer


def ask_comparison(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Comparison: which of two kinds there are more of, never a draw."""
    counts = scene.count("shape")
    pairs = [(a, b) for a in SHAPES for b in SHAPES if counts[a] != counts[b]]
    if not pairs:
        return None
    first, second = pairs[rng.integers(len(pairs))]
    return f"more {first} than {second} shapes ?", "yes" if counts[first] > counts[second] else "no"


SLICES: dict[str, Callable[[Scene, np.random.Generator], Question | None]] = {
    "attribute": ask_color,
    "category": ask_shape,
    "counting": ask_count,
    "existence": ask_existence,
    "position": ask_position,
    "reading": ask_reading,
    "relation": ask_relation,
    "comparison": ask_comparison,
}


def vocabulary() -> list[str]:
    """Every word that a question or an answer can hold, sorted.

    The words "left of" are part of the embedded tokenizer, although no slice asks for that relation.
    """
    glue = "what color is the shape how many shapes ? there a which row column in digit written above left of more than"
    return sorted({*glue.split(), "yes", "no", *SHAPES, *COLORS, *NUMBERS})


# --- the data set ----------------------------------------------------------------------------------------------------


def generate(split: str, count: int, seed: int = 0) -> Iterator[dict[str, object]]:
    """Yield ``count`` samples of ``split``, the slices in turn, one fresh scene each.

    Sample ``i`` depends on (seed, split, i) alone, so a longer set begins with the shorter one.

    Yields
    ------
    dict
        ``index``, ``image`` (PIL image), ``question``, ``answer``, ``category`` (the slice) and ``split``.
    """
    names = list(SLICES)
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        name = names[index % len(names)]
        asked = None
        while asked is None:
            scene = draw_scene(rng, split)
            asked = SLICES[name](scene, rng)
        image = Image.fromarray(render(scene, rng))
        yield {
            "index": index,
            "image": image,
            "question": asked[0],
            "answer": asked[1],
            "category": name,
            "split": split,
        }


def write_tsv(path: Path, split: str, count: int, seed: int = 0) -> None:
    """Store :func:`generate` as a tab-separated table with base64 PNG images."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, delimiter="\t")
        table.writeheader()
        for row in generate(split, count, seed):
            png = io.BytesIO()
            row["image"].save(png, format="PNG")  # type: ignore[attr-defined]
            table.writerow({**row, "image": base64.b64encode(png.getvalue()).decode()})


# --- drawing material ------------------------------------------------------------------------------------------------


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Glyphs (sample, 16, 16) with ink 0..16, and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    small = [Image.fromarray(glyph.astype(np.float32)) for glyph in data.images]
    glyphs = [np.asarray(glyph.resize((CELL, CELL), Image.Resampling.BILINEAR)) for glyph in small]
    return np.stack(glyphs), data.target


@cache
def _digit_split(split: str) -> np.ndarray:
    """Sample numbers that belong to ``split``: 300 each for validation and test, the rest for training."""
    order = np.random.default_rng(1797).permutation(len(_digits()[1]))
    parts = {"validation": order[:300], "test": order[300:600], "train": order[600:]}
    return parts[split]


def _mask(paint: Callable[[ImageDraw.ImageDraw, float], None]) -> np.ndarray:
    """Antialiased mask (16, 16) in 0..1 of what ``paint`` draws at four times the size."""
    scale = 4
    canvas = Image.new("L", (CELL * scale, CELL * scale))
    paint(ImageDraw.Draw(canvas), float(scale))
    return np.asarray(canvas.resize((CELL, CELL), Image.Resampling.BOX), dtype=float) / 255.0


@cache
def _shape_masks(shape: str) -> tuple[np.ndarray, ...]:
    """``shape`` at three sizes and nine offsets."""

    def painter(radius: float, x: float, y: float) -> Callable[[ImageDraw.ImageDraw, float], None]:
        def paint(draw: ImageDraw.ImageDraw, s: float) -> None:
            left, top, right, bottom = ((x - radius) * s, (y - radius) * s, (x + radius) * s, (y + radius) * s)
            middle, third = x * s, radius * s / 2.6
            if shape in ("circle", "ring"):
                draw.ellipse((left, top, right, bottom), fill=255)
                if shape == "ring":
                    hole = radius * s * 0.5
                    draw.ellipse((x * s - hole, y * s - hole, x * s + hole, y * s + hole), fill=0)
            elif shape == "square":
                inset = radius * s * 0.1
                draw.rectangle((left + inset, top + inset, right - inset, bottom - inset), fill=255)
            elif shape == "triangle":
                draw.polygon([(middle, top), (right, bottom), (left, bottom)], fill=255)
            else:
                draw.rectangle((middle - third, top, middle + third, bottom), fill=255)
                draw.rectangle((left, y * s - third, right, y * s + third), fill=255)

        return paint

    centre = CELL / 2
    return tuple(
        _mask(painter(radius, centre + dx, centre + dy))
        for radius in (5.5, 6.0, 6.5)
        for dx in (-1.0, 0.0, 1.0)
        for dy in (-1.0, 0.0, 1.0)
    )


@cache
def _scribble_masks() -> tuple[np.ndarray, ...]:
    """Thin random strokes that are no shape."""
    rng = np.random.default_rng(7)

    def paint(draw: ImageDraw.ImageDraw, s: float) -> None:
        points = rng.uniform(2, CELL - 2, (4, 2)) * s
        draw.line([tuple(point) for point in points], fill=255, width=int(1.3 * s))

    return tuple(_mask(paint) for _ in range(32))

"""Shapes world tells the truth, repeats itself exactly, and keeps its splits apart."""

import base64
import io
import re
from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vispco.data import Task, read_tsv
from vispco.embedded import shapes

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def only(things, **wanted):
    """The one thing with these attributes; a question that presumes it must not be asked otherwise."""
    (thing,) = [t for t in things if all(getattr(t, name) == value for name, value in wanted.items())]
    return thing


def what_color(scene, shape):
    return only(scene.things, shape=shape).color


def what_shape(scene, color):
    return only(scene.things, color=color).shape


def how_many(scene, kind):
    return WORDS[sum(kind in (None, thing.shape, thing.color) for thing in scene.things)]


def is_there(scene, color, shape):
    return any((thing.color, thing.shape) == (color, shape) for thing in scene.things)


def which_line(scene, axis, shape):
    row, column = only(scene.things, shape=shape).cell
    return WORDS[1 + (row if axis == "row" else column)]


def what_digit(scene):
    return WORDS[load_digits().target[scene.digit_sample]]


def is_before(scene, first, relation, second):
    (row, column), (other_row, other_column) = (only(scene.things, shape=shape).cell for shape in (first, second))
    assert (row != other_row) if relation == "above" else (column != other_column)
    return row < other_row if relation == "above" else column < other_column


def are_more(scene, first, second):
    numbers = [sum(thing.shape == shape for thing in scene.things) for shape in (first, second)]
    assert numbers[0] != numbers[1]
    return numbers[0] > numbers[1]


GRAMMAR = {
    "attribute": (r"what color is the (\w+) \?", what_color),
    "category": (r"what shape is (\w+) \?", what_shape),
    "counting": (r"how many (?:(\w+) )?shapes \?", how_many),
    "existence": (r"is there a (\w+) (\w+) \?", is_there),
    "position": (r"which (row|column) is the (\w+) in \?", which_line),
    "reading": (r"what digit is written \?", what_digit),
    "relation": (r"is the (\w+) (above|left of) the (\w+) \?", is_before),
    "comparison": (r"more (\w+) than (\w+) shapes \?", are_more),
}


def true_answer(scene, category, question):
    """Answer from the words of the question, with none of the code that made it."""
    pattern, find = GRAMMAR[category]
    found = find(scene, *re.fullmatch(pattern, question).groups())
    return {True: "yes", False: "no"}.get(found, found)


@pytest.fixture(scope="module")
def asked():
    """Forty rounds through the slices: samples as generated, and the scene behind each."""
    scenes = []
    paint = shapes.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "render", lambda scene, rng: (scenes.append(scene), paint(scene, rng))[1])
        samples = list(shapes.generate("validation", 320, seed=11))
    return list(zip(samples, scenes, strict=True))


def test_every_answer_is_true(asked):
    assert set(GRAMMAR) == set(shapes.SLICES), "teach the oracle the new slice"
    for sample, scene in asked:
        assert sample["answer"] == true_answer(scene, sample["category"], sample["question"]), (sample, scene)


def test_slices_take_turns(asked):
    names = [sample["category"] for sample, _ in asked]
    assert names == list(shapes.SLICES) * 40
    assert [sample["index"] for sample, _ in asked] == list(range(320))
    assert {sample["split"] for sample, _ in asked} == {"validation"}


def test_every_word_is_in_the_vocabulary(asked):
    words = shapes.vocabulary()
    assert words == sorted(set(words))
    used = {word for sample, _ in asked for word in [*sample["question"].split(), *sample["answer"].split()]}
    assert used <= set(words)
    assert all(len(sample["answer"].split()) == 1 for sample, _ in asked)


def test_scenes_have_two_to_seven_objects_in_cells_of_their_own(asked):
    numbers = Counter()
    for _, scene in asked:
        cells = [thing.cell for thing in scene.things] + [scene.digit_cell, *scene.scribbles]
        assert len(set(cells)) == len(cells)
        assert {place for cell in cells for place in cell} <= set(range(5))
        numbers[len(scene.things) + 1] += 1
    assert set(numbers) == {2, 3, 4, 5, 6, 7}


def test_pictures_show_their_scene(asked):
    """Each cell of a thing holds its colour rather than another, and the digit's cell its handwriting."""
    names, palette = list(shapes.COLORS), np.array(list(shapes.COLORS.values()))
    glyphs = load_digits().images
    for sample, scene in asked:
        pixels = np.asarray(sample["image"])
        assert pixels.shape == (80, 80, 3)
        assert pixels.dtype == np.uint8
        cells = pixels.reshape(5, 16, 5, 16, 3).swapaxes(1, 2).astype(float)
        for thing in scene.things:
            distances = np.linalg.norm(cells[thing.cell].reshape(-1, 1, 3) - palette, axis=-1)
            assert names[int(distances.min(axis=0).argmin())] == thing.color
        seen = cells[scene.digit_cell].mean(axis=-1).reshape(8, 2, 8, 2).mean(axis=(1, 3))
        assert np.corrcoef(seen.ravel(), glyphs[scene.digit_sample].ravel())[0, 1] < -0.85


def as_bytes(samples):
    return [{**sample, "image": sample["image"].tobytes()} for sample in samples]


def test_generation_repeats_and_a_longer_set_begins_with_the_shorter():
    short, again, long = (as_bytes(shapes.generate("train", count, seed=5)) for count in (17, 17, 40))
    assert short == again == long[:17]
    assert as_bytes(shapes.generate("train", 17, seed=6)) != short


def test_splits_share_no_scenes():
    """Under one seed, the same place in two splits holds unrelated scenes."""
    one, other = ([sample["question"] for sample in shapes.generate(split, 80)] for split in ("validation", "test"))
    assert sum(map(str.__eq__, one, other)) < 40


def test_splits_share_no_handwriting(asked):
    parts = {split: set(shapes._digit_split(split).tolist()) for split in shapes.SPLITS}
    assert all(not one & other for one, other in combinations(parts.values(), 2))
    assert set.union(*parts.values()) == set(range(1797))
    assert {scene.digit_sample for _, scene in asked} <= parts["validation"]
    labels = load_digits().target
    for part in parts.values():
        assert len(part) >= 300
        assert set(labels[list(part)]) == set(range(10))


@pytest.mark.parametrize("category", ["existence", "relation", "comparison"])
def test_yes_and_no_are_balanced(category):
    rng = np.random.default_rng(3)
    asked = (shapes.SLICES[category](shapes.draw_scene(rng, "train"), rng) for _ in iter(int, 1))
    answers = Counter(answer for _, answer in islice(filter(None, asked), 1000))
    assert set(answers) == {"yes", "no"}
    assert 440 <= answers["yes"] <= 560  # nearly four standard deviations


def test_no_count_rules():
    rng = np.random.default_rng(4)
    answers = Counter(shapes.ask_count(shapes.draw_scene(rng, "train"), rng)[1] for _ in range(1000))
    assert set(answers) == set(WORDS[:7])
    assert max(answers.values()) < 500


def test_at_most_as_many_shapes_as_asked_for():
    rng = np.random.default_rng(5)
    assert {len(shapes.draw_scene(rng, "train", most=2).things) for _ in range(50)} == {1, 2}


def test_table_round_trip(tmp_path):
    path = tmp_path / "shapes.tsv"
    shapes.write_tsv(path, "test", 16, seed=2)
    assert path.read_text().splitlines()[0].split("\t") == list(shapes.COLUMNS)
    made = list(shapes.generate("test", 16, seed=2))
    read = list(map(Task().sample, read_tsv(path)))
    fields = [(s.index, s.question, s.answer, s.slice, s.split) for s in read]
    assert fields == [(str(m["index"]), m["question"], m["answer"], m["category"], m["split"]) for m in made]
    for sample, original in zip(read, made, strict=True):
        assert sample.image.tobytes() == original["image"].tobytes()
    column = path.read_text().splitlines()[1].split("\t")[1]
    assert Image.open(io.BytesIO(base64.b64decode(column))).format == "PNG"

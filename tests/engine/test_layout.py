"""Rows, columns and tiles of visual tokens against what the stock models do with numbered patches and positions."""

from functools import cache
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from vispco import ModelCard, PruningConfig
from vispco.engine import Replay, observed_attention, prune
from vispco.engine.families import describe
from vispco.engine.prompt import told_of_pictures
from vispco.errors import ModelError
from vispco.selectors import REGISTRY, Scorer, make_selector
from vispco.testing import MODELS, RAGGED, Sample
from vispco.testing.conformance import SINGLE
from vispco.testing.models.base import IMAGE, VIDEO
from vispco.testing.models.llava import TILE

QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
ANYRES = ["llava_next", "llava_onevision"]
SIDE = 4
"""Patches of a tile of the any-resolution models, and tokens of a tile of the others."""


class Spy(Scorer):
    """Keeps what it was shown."""

    needs = frozenset({"grid", "crops"})
    seen: ClassVar[list] = []

    def score(self, inputs):
        self.seen.append(inputs)
        return -inputs.grid.sum(dim=-1).float()


@pytest.fixture(autouse=True)
def spy(monkeypatch):
    monkeypatch.setitem(REGISTRY, "spy", Spy)
    Spy.seen.clear()
    return Spy.seen


@cache
def built(name):
    return MODELS[name].build()


def config_of(model):
    layers = len(describe(model).layers)
    card = ModelCard(type=model.config.model_type, layers=layers)
    return PruningConfig(selector="spy", keep=(1.0, *(0.5,) * (layers - 1)), model=card)


def shown(model, inputs):
    """Row, column and tile of every visual token, a list per sample."""
    with prune(model, config_of(model)):
        model(**inputs)
    return listed(Spy.seen[-1])


def listed(seen):
    cells = torch.cat([seen.grid, seen.crops[..., None]], dim=-1)
    return [[tuple(cell) for cell in row[valid].tolist()] for row, valid in zip(cells, seen.valid, strict=True)]


def prompt(tiny, ids, **features):
    """A batch of one prompt from token ids."""
    ids = torch.tensor([ids])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **features, **tiny.extras(ids)}


def blocks(found):
    """Beginnings and ends of the runs of True."""
    edges = [
        index
        for index in range(len(found) + 1)
        if (index > 0 and found[index - 1]) != (index < len(found) and found[index])
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))


# Images in tiles of any resolution: every patch is painted with its number, and the stock model packs them.


def numbered(name, sizes, arrangements, alone=True, aspect=None):
    """What the stock model packs: numbers of patches, tile * 16 + patch + 1, and -1 for a newline; a list per image."""
    model = MODELS[name].build()
    base = model.base_model
    counts = [1 + rows * columns if alone else 1 for rows, columns in arrangements]
    numbers = torch.arange(max(counts) * SIDE * SIDE).reshape(1, -1, SIDE, SIDE).repeat(len(sizes), 1, 1, 1) + 1.0
    cell = TILE // SIDE
    pixels = numbers.repeat_interleave(cell, -1).repeat_interleave(cell, -2)[:, :, None].expand(-1, -1, 3, -1, -1)

    def see(pixel_values, **_):
        patches = pixel_values[:, 0, ::cell, ::cell].flatten(1)[..., None]
        if name == "llava_next":
            patches = nn.functional.pad(patches, (0, 0, 1, 0), value=-5.0)
        return SimpleNamespace(hidden_states=[patches] * 3)

    base.vision_tower.forward = see
    base.multi_modal_projector = nn.Identity()
    base.image_newline = nn.Parameter(torch.tensor([-1.0]))
    if aspect:
        model.config.vision_aspect_ratio = aspect
    more = {"batch_num_images": torch.tensor([1] * len(sizes) if alone else [len(sizes)])}
    given = {"image_sizes": torch.tensor(sizes), **(more if name == "llava_onevision" else {})}
    packed = base.get_image_features(pixels, **given, return_dict=True).pooler_output
    return model, given, [image[:, 0].tolist() for image in packed]


def expected_cells(numbers, columns):
    """Whole picture, then the mosaic from row SIDE and column 0 on; a newline stands behind the token before it."""
    cells = []
    for number in numbers:
        if number < 0:
            row, column, tile = cells[-1]
            cells.append((row, column + 1, tile))
            continue
        tile, patch = divmod(int(number) - 1, SIDE * SIDE)
        row, column = divmod(patch, SIDE)
        if tile:
            row, column = (tile - 1) // columns * SIDE + row, (tile - 1) % columns * SIDE + column
        cells.append((row, column, tile))
    top = min((row for row, _, tile in cells if tile), default=0)
    left = min((column for _, column, tile in cells if tile), default=0)
    return [(row - top + SIDE, column - left, tile) if tile else (row, column, tile) for row, column, tile in cells]


ARRANGED = {(16, 32): (1, 2), (32, 8): (2, 1), (16, 16): (1, 1), (8, 32): (1, 2), (32, 16): (2, 1), (20, 32): (1, 2)}
"""Tiles, down and across, of images of these sizes."""


def laid_out(model, spans, given):
    """The layout of a prompt of these runs of visual tokens with a text token around each."""
    ids = [11]
    for length in spans:
        ids += [IMAGE] * length + [12]
    family = describe(model)
    watched = {"input_ids": torch.tensor([ids]), **given}
    return family.layout(family, told_of_pictures(watched))


@pytest.mark.parametrize("name", ANYRES)
@pytest.mark.parametrize("size", ARRANGED, ids=str)
def test_tiles_of_any_resolution(name, size):
    model, given, [numbers] = numbered(name, [size], [ARRANGED[size]])
    cells = laid_out(model, [len(numbers)], given).tolist()
    assert [tuple(cell) for cell in cells] == expected_cells(numbers, ARRANGED[size][1])


def test_two_by_two_tiles():
    """By hand: an image of 32 x 24 pixels in four tiles loses a column of patches on either side."""
    model = MODELS["llava_next"].build()
    model.config.image_grid_pinpoints = [[32, 32]]
    cells = laid_out(model, [72], {"image_sizes": torch.tensor([[32, 24]])}).tolist()
    assert cells[:16] == [[row, column, 0] for row in range(4) for column in range(4)]
    assert len(cells) == 16 + 8 * (6 + 1)
    for row in range(8):
        line = cells[16 + 7 * row : 23 + 7 * row]
        left, right = (1, 2) if row < 4 else (3, 4)
        assert line == [[4 + row, column, left if column < 3 else right] for column in range(7)]


@pytest.mark.parametrize("name", ANYRES)
def test_signals_of_tiles_in_a_batch(name):
    """Images of several samples, whose rows begin anew; what a selector is shown, pruned and replayed."""
    tiny, model = MODELS[name], built(name)
    samples = (Sample(2, 1, 5, seed=1), Sample(3, 0, 4, seed=3), Sample(2, 1, 9, seed=4), Sample(1, 1, 2, seed=6))
    inputs = tiny.inputs(samples)
    sizes = [tuple(size) for size in inputs["image_sizes"].tolist()]
    assert len(set(sizes)) > 1
    expected = []
    for size in sizes:
        _, _, [numbers] = numbered(name, [size], [ARRANGED[size]])
        expected.append(expected_cells(numbers, ARRANGED[size][1]))
    expected.insert(1, [])
    assert shown(model, inputs) == expected
    with observed_attention(describe(model)):
        pictured = Replay(model, make_selector("spy")).capture(inputs).pictured
    assert torch.equal(pictured["grid"], Spy.seen[-1].grid)
    assert torch.equal(pictured["crops"], Spy.seen[-1].crops)


def test_several_images_of_a_sample_are_not_tiled():
    """LLaVA-OneVision: the whole picture alone, with one newline behind its last row."""
    tiny = MODELS["llava_onevision"]
    square = [(row, column, 0) for row in range(SIDE) for column in range(SIDE)]
    [cells] = shown(built("llava_onevision"), tiny.inputs([Sample(2, 2, 5, seed=1)]))
    assert cells == [*square, (3, 4, 0)] * 2
    _, _, images = numbered("llava_onevision", [(16, 32), (32, 8)], [(1, 2), (2, 1)], alone=False)
    assert [expected_cells(numbers, 1) for numbers in images] == [[*square, (3, 4, 0)]] * 2


def test_several_images_of_a_sample_in_tiles():
    """LLaVA-NeXT tiles them all, and the rows of each begin with 0."""
    tiny = MODELS["llava_next"]
    inputs = tiny.inputs([Sample(2, 2, 5, seed=1)])
    sizes = [tuple(size) for size in inputs["image_sizes"].tolist()]
    _, _, images = numbered("llava_next", sizes, [ARRANGED[size] for size in sizes])
    each = [expected_cells(numbers, ARRANGED[size][1]) for numbers, size in zip(images, sizes, strict=True)]
    assert shown(built("llava_next"), inputs) == [each[0] + each[1]]


def test_images_without_text_between_them_stand_below_each_other():
    inputs = MODELS["llava_next"].inputs([Sample(2, 2, 5, seed=1)])
    apart = shown(built("llava_next"), inputs)[0]
    ids = inputs["input_ids"][0].tolist()
    [(_, end), (begin, _)] = blocks([token == IMAGE for token in ids])
    assert begin == end + 1
    joined = prompt(
        MODELS["llava_next"], ids[:end] + ids[begin:], **{k: inputs[k] for k in ("pixel_values", "image_sizes")}
    )
    [cells] = shown(built("llava_next"), joined)
    first = end - 2
    height = max(row for row, _, _ in apart[:first]) + 1
    assert cells == apart[:first] + [(row + height, column, tile) for row, column, tile in apart[first:]]


def test_a_mosaic_that_is_made_smaller():
    """LLaVA-OneVision resizes 4 x 8 patches to 2 x 5: their rows and columns, tiles by the centre of each."""
    size = (16, 32)
    model, given, [numbers] = numbered("llava_onevision", [size], [(1, 2)], aspect="anyres_max_1")
    assert len(numbers) == 16 + 2 * (5 + 1)
    assert [number < 0 for number in numbers[16:]] == [False, False, False, False, False, True] * 2
    cells = laid_out(model, [len(numbers)], given).tolist()
    tiles = [1 if (column + 0.5) * 8 / 5 < 4 else 2 for column in range(5)]
    for row in range(2):
        line = cells[16 + 6 * row : 22 + 6 * row]
        assert line == [[4 + row, column, tile] for column, tile in enumerate([*tiles, 2])]


# Models whose rotary positions tell where a token is.


def positions_of(model, inputs):
    """Time, height and width of every token as the stock decoder gets them; shape (3, batch, sequence)."""
    found = []

    def take(module, args, kwargs):
        found.append(kwargs["position_ids"][-3:])

    hook = model.get_decoder().register_forward_pre_hook(take, with_kwargs=True)
    model(**inputs)
    hook.remove()
    return found[0]


def cells_of_positions(positions, ids):
    """Rows and columns of the runs of visual tokens of one sample; frames of a run below each other."""
    cells = []
    for start, end in blocks([token in (IMAGE, VIDEO) for token in ids]):
        times, rows, columns = (axis[start:end].tolist() for axis in positions)
        height, width = max(rows) - min(rows) + 1, max(columns) - min(columns) + 1
        frames = sorted(set(times))
        if len(frames) * height * width < end - start:
            pytest.skip("this release of transformers gives all frames of a video one time")
        for time, row, column in zip(times, rows, columns, strict=True):
            cells.append((frames.index(time) * height + row - min(rows), column - min(columns), 0))
    return cells


@pytest.mark.parametrize("samples", [SINGLE, RAGGED, (*RAGGED, Sample(2, 0, 6, seed=7, video=True))], ids=len)
@pytest.mark.parametrize("name", QWEN)
def test_grids_are_those_of_rotary_positions(name, samples):
    tiny, model = MODELS[name], built(name)
    inputs = tiny.inputs(samples)
    positions = positions_of(model, inputs)
    expected = [cells_of_positions(positions[:, row], ids) for row, ids in enumerate(inputs["input_ids"].tolist())]
    assert shown(model, inputs) == expected
    assert len({max(row for row, _, _ in cells) for cells in expected if cells}) > 1 or len(samples) == 1


@pytest.mark.parametrize("video_first", [True, False])
@pytest.mark.parametrize("name", QWEN)
def test_images_and_videos_in_one_prompt(name, video_first):
    tiny, model = MODELS[name], built(name)
    parts = [tiny.inputs([Sample(2, 0, 3, seed=5, video=True)]), tiny.inputs([Sample(1, 2, 2, seed=6)])]
    order = parts if video_first else parts[::-1]
    ids = torch.cat([part["input_ids"][0] for part in order]).tolist()
    names = ("pixel_values", "pixel_values_videos", "image_grid_thw", "video_grid_thw")
    features = {name: part[name] for part in parts for name in names if name in part}
    inputs = prompt(tiny, ids, **features)
    expected = cells_of_positions(positions_of(model, inputs)[:, 0], ids)
    assert shown(model, inputs) == [expected]
    frames = 2 if name == "qwen3_vl" else 1
    assert len(blocks([token in (IMAGE, VIDEO) for token in ids])) == 2 + frames


def test_frames_stand_below_each_other_or_apart():
    """By hand: frames that follow each other are one picture, frames with text between them have a grid each."""
    sample = Sample(2, 0, 6, seed=7, video=True)
    for name, apart in (("qwen2_vl", False), ("qwen3_vl", True)):
        inputs = MODELS[name].inputs([sample])
        [[frames, height, width]] = inputs["video_grid_thw"].tolist()
        assert frames == 2
        frame = [(row, column, 0) for row in range(height // 2) for column in range(width // 2)]
        second = frame if apart else [(row + height // 2, column, 0) for row, column, _ in frame]
        assert shown(built(name), inputs) == [frame + second]


def test_a_grid_of_other_images_is_refused():
    family = describe(built("qwen2_vl"))
    ids = torch.full((1, 12), IMAGE)
    with pytest.raises(
        ModelError, match=r"^image_grid_thw tells of 15 visual tokens, the prompt has 12; pass that of its"
    ):
        family.layout(family, {"input_ids": ids, "image_grid_thw": torch.tensor([[1, 6, 10]])})
    with pytest.raises(
        ModelError, match=r"^image_grid_thw is not passed, so that rows of visual tokens are unknown; pass"
    ):
        family.layout(family, {"input_ids": ids})


# Pictures of one size.


def test_tiles_of_internvl_stand_below_each_other():
    cells = shown(built("internvl"), MODELS["internvl"].inputs(RAGGED))
    counts = [len(row) // 16 for row in cells]
    assert sorted(set(counts)) != [1]
    ids = MODELS["internvl"].inputs(RAGGED)["input_ids"].tolist()
    for row, found in zip(cells, ids, strict=True):
        expected = []
        for start, end in blocks([token == IMAGE for token in found]):
            expected += [(place // 4, place % 4, 0) for place in range(end - start)]
        assert row == expected


@pytest.mark.parametrize("name", ["llava", "paligemma", "video_llava", "internvl"])
def test_four_squares_in_a_row_are_no_larger_square(name):
    """64 visual tokens in one run are four pictures of 4 x 4, and not one of 8 x 8."""
    tiny = MODELS[name]
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    key = next(key for key in tiny.inputs(SINGLE) if key.startswith("pixel_values"))
    [cells] = shown(built(name), prompt(tiny, [11] + [IMAGE] * 64 + [12, 13], **{key: pixels}))
    assert cells == [(place // 4, place % 4, 0) for place in range(64)]


def test_tokens_that_are_no_whole_pictures_are_refused():
    model = built("llava")
    with pytest.raises(
        ModelError, match=r"^the images have 32 visual tokens, the prompt 40; pass the images of the"
    ) as error:
        shown(model, prompt(MODELS["llava"], [11] + [IMAGE] * 40 + [12]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["llava_onevision", "video_llava"])
def test_grids_of_videos_are_refused(name):
    inputs = MODELS[name].inputs([Sample(2, 0, 5, seed=5, video=True)])
    with pytest.raises(ModelError, match=f"^{name} does not tell places and patches of the visual tokens of a video"):
        shown(built(name), inputs)


def test_selectors_that_need_no_grid_do_not_ask_for_it():
    """A video of LLaVA-OneVision, whose grid is not known, is pruned all the same."""
    model = built("llava_onevision")
    config = config_of(model).model_copy(update={"selector": "fastv"})
    with prune(model, config) as pruned:
        model(**MODELS["llava_onevision"].inputs([Sample(2, 0, 5, seed=5, video=True)]))
    assert pruned.kept_counts[-1].tolist() == [9]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "qwen3_vl", "internvl"])
def test_generating_knows_the_grid(name, cached):
    """Newer releases encode images before the first forward, which is told nothing of them."""
    model, inputs = built(name), MODELS[name].inputs(RAGGED)
    cells = shown(model, inputs)
    with prune(model, config_of(model)):
        model.generate(**inputs, max_new_tokens=3, do_sample=False, use_cache=cached, suppress_tokens=[IMAGE, VIDEO])
    assert listed(Spy.seen[-1]) == cells
    assert len(Spy.seen) == 2


@pytest.mark.parametrize("name", ["qwen2_vl", "internvl"])
def test_beams_share_the_grid_of_their_sample(name):
    model, inputs = built(name), MODELS[name].inputs(RAGGED)
    cells = shown(model, inputs)
    with prune(model, config_of(model)):
        model.generate(**inputs, max_new_tokens=2, num_beams=2, do_sample=False, suppress_tokens=[IMAGE, VIDEO])
    assert listed(Spy.seen[-1]) == [row for row in cells for _ in range(2)]

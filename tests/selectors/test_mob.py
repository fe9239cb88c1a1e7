"""MoB against worked examples and against the paper's algorithm, written out slowly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.covering import CHUNK
from vispco.selectors.divprune import DivPrune
from vispco.selectors.mob import MoB, coupling, coverage


def directions(*degrees):
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=-1)[None]


def inputs_of(hidden, question_hidden, valid=None, question_valid=None):
    every = [torch.ones(signal.shape[:2], dtype=torch.bool) for signal in (hidden, question_hidden)]
    return SelectorInputs(
        valid=every[0] if valid is None else valid,
        hidden=hidden,
        question_hidden=question_hidden,
        question_valid=every[1] if question_valid is None else question_valid,
    )


EXAMPLE = inputs_of(directions(0.0, 10.0, 45.0, 90.0, 95.0, 170.0), directions(95.0, 20.0))


def random_inputs(samples, visual, question, width, generator):
    return inputs_of(
        torch.randn(samples, visual, width, generator=generator) * 3,
        torch.randn(samples, question, width, generator=generator),
        torch.rand(samples, visual, generator=generator) < 0.7,
        torch.rand(samples, question, generator=generator) < 0.7,
    )


def kept_by(selector, inputs, *counts):
    return [row.nonzero()[:, 0].tolist() for row in selector.choose(inputs, torch.tensor(counts))]


def unit(rows):
    return [row / np.linalg.norm(row) for row in rows.numpy().astype(np.float64)]


def parts_of(inputs, row):
    """Unit vectors of one sample: visual tokens by index, and the question."""
    visual = dict(enumerate(unit(inputs.hidden[row])))
    visual = {i: visual[i] for i in visual if inputs.valid[row, i]}
    question = [
        p for p, there in zip(unit(inputs.question_hidden[row]), inputs.question_valid[row], strict=True) if there
    ]
    return visual, question


def oracle(visual, question, count, prompt_count, k):
    """The kept set by the paper's algorithm, in float64, one pair at a time."""
    candidates = set()
    for p in question:
        candidates |= set(sorted(visual, key=lambda i: (-float(p @ visual[i]), i))[:k])
    similarity = {i: max(float(p @ visual[i]) for p in question) for i in candidates}
    chosen = sorted(candidates, key=lambda i: (-similarity[i], i))[:prompt_count]
    while len(chosen) < count:
        best, best_gap = None, -np.inf
        for i in visual:
            if i in chosen:
                continue
            gap = min((1 - float(visual[i] @ visual[j]) for j in (chosen or visual) if j != i), default=np.inf)
            if gap > best_gap:
                best, best_gap = i, gap
        chosen.append(best)
    return sorted(chosen)


def one_sided(points, centres):
    """``max_points min_centres |u - v|``."""
    return max((min((np.linalg.norm(u - v) for v in centres), default=np.inf) for u in points), default=0.0)


@pytest.mark.parametrize(
    ("share", "k", "expected"), [(0.5, 2, [0, 3, 4, 5]), (0.5, 1, [1, 2, 4, 5]), (0.25, 2, [0, 2, 4, 5])]
)
def test_worked_examples(share, k, expected):
    assert kept_by(MoB(share=share, k=k), EXAMPLE, 4) == [expected]


def test_thousand_random_cases():
    generator = torch.Generator().manual_seed(0)
    for case in range(50):
        inputs = random_inputs(20, case % 10, case % 4, 2 + case % 3, generator)
        counts = (torch.rand(20, generator=generator) * (inputs.valid.sum(dim=1) + 1)).long()
        share, k = (case % 6) / 5, 1 + case % 7
        kept = kept_by(MoB(share=share, k=k), inputs, *counts.tolist())
        for row, count in enumerate(counts.tolist()):
            prompt_count = int((case % 6) * count / 5 + 0.5)
            assert kept[row] == oracle(*parts_of(inputs, row), count, prompt_count, k)


@pytest.mark.parametrize("preset", ["strong", "weak"])
def test_presets_in_a_ragged_batch(preset):
    """K_p and k are each sample's own."""
    generator = torch.Generator().manual_seed(1)
    inputs = random_inputs(20, 40, 6, 4, generator)
    counts = (torch.rand(20, generator=generator) * (inputs.valid.sum(dim=1) + 1)).long()
    kept = kept_by(MoB(preset=preset), inputs, *counts.tolist())
    for row, count in enumerate(counts.tolist()):
        total = int(inputs.valid[row].sum())
        shares = {"strong": (3 / 8, 1 / 4, 1 / 4), "weak": (1 / 2, 7 / 16, 5 / 12)}[preset]
        prompt_count = int(count * np.interp(count / total, (1 / 9, 2 / 9, 1 / 3), shares) + 0.5 + 1e-9)
        k = max(1, int(prompt_count * {"strong": 3 / 40, "weak": 1 / 8}[preset] + 0.5 + 1e-9))
        assert kept[row] == oracle(*parts_of(inputs, row), count, prompt_count, k)


def test_published_settings():
    counts, totals = torch.tensor([64, 128, 192, 320, 135, 288]), torch.tensor([576, 576, 576, 2880, 2048, 576])
    number, k = MoB(preset="strong").split(counts, totals)
    assert number.tolist() == [24, 32, 48, 120, 51, 72]
    assert k.tolist() == [2, 2, 4, 9, 4, 5]
    number, k = MoB(preset="weak").split(counts, totals)
    assert number.tolist() == [32, 56, 80, 160, 68, 120]
    assert k.tolist() == [4, 7, 10, 20, 9, 15]
    assert [part.tolist() for part in MoB().split(counts[:1], totals[:1])] == [[32], [4]]


def test_split_of_other_counts():
    """Halfway between two published settings, the share is halfway; nothing is divided by 0."""
    number, k = MoB(preset="strong").split(torch.tensor([96, 160, 1, 0]), torch.tensor([576, 576, 576, 0]))
    assert number.tolist() == [30, 40, 0, 0]
    assert k.tolist() == [2, 3, 1, 1]
    # 0.145 * 100 is a little less than 14.5 in float64.
    assert MoB(share=0.145).split(torch.tensor([100]), torch.tensor([100]))[0].tolist() == [15]


def test_questions_longer_than_a_chunk():
    generator = torch.Generator().manual_seed(2)
    inputs = random_inputs(2, 30, CHUNK + 20, 24, generator)
    kept = kept_by(MoB(share=0.8, k=1), inputs, 10, 12)
    assert kept == [oracle(*parts_of(inputs, row), count, share, 1) for row, count, share in ((0, 10, 8), (1, 12, 10))]


def test_nothing_to_cover_for_the_prompt_is_divprune():
    generator = torch.Generator().manual_seed(3)
    inputs, counts = random_inputs(6, 20, 3, 4, generator), torch.full((6,), 5)
    expected = DivPrune("hidden").choose(inputs, counts)
    assert torch.equal(MoB(share=0.0).choose(inputs, counts), expected)
    silent = replace(inputs, question_valid=torch.zeros_like(inputs.question_valid))
    assert torch.equal(MoB(share=1.0).choose(silent, counts), expected)
    none = replace(inputs, question_hidden=torch.zeros(6, 0, 4), question_valid=torch.zeros(6, 0, dtype=torch.bool))
    assert torch.equal(MoB(share=1.0).choose(none, counts), expected)
    # One sample without a question beside others that have one.
    mixed = replace(inputs, question_valid=inputs.question_valid & (torch.arange(6) != 2)[:, None])
    kept = MoB().choose(mixed, counts)
    assert torch.equal(kept[2], expected[2])
    assert torch.equal(kept[:2], MoB().choose(inputs, counts)[:2])


def test_too_few_candidates_are_filled_up():
    """One question token with k = 1 has one candidate, whatever K_p."""
    inputs = inputs_of(EXAMPLE.hidden, directions(95.0))
    assert kept_by(MoB(share=1.0, k=1), inputs, 4) == [[0, 2, 4, 5]]
    assert kept_by(MoB(share=1.0, k=64), EXAMPLE, 6) == [[0, 1, 2, 3, 4, 5]]


def test_follows_a_permutation():
    generator = torch.Generator().manual_seed(4)
    inputs = random_inputs(4, 30, 7, 5, generator)
    visual, question = torch.randperm(30, generator=generator), torch.randperm(7, generator=generator)
    shuffled = inputs_of(
        inputs.hidden[:, visual],
        inputs.question_hidden[:, question],
        inputs.valid[:, visual],
        inputs.question_valid[:, question],
    )
    counts = torch.tensor([3, 6, 9, 12])
    assert torch.equal(MoB().choose(shuffled, counts), MoB().choose(inputs, counts)[:, visual])


def test_only_directions_count():
    generator = torch.Generator().manual_seed(5)
    inputs, counts = random_inputs(4, 30, 3, 5, generator), torch.tensor([3, 6, 9, 12])
    longer = replace(
        inputs,
        hidden=inputs.hidden * (torch.rand(4, 30, 1, generator=generator) * 9 + 0.1),
        question_hidden=inputs.question_hidden * 70,
    )
    assert torch.equal(MoB().choose(longer, counts), MoB().choose(inputs, counts))
    torch.testing.assert_close(coupling(longer), coupling(inputs))


def test_what_is_not_there_does_not_matter():
    generator = torch.Generator().manual_seed(6)
    inputs, counts = random_inputs(4, 20, 5, 4, generator), torch.tensor([2, 4, 6, 8])
    junk = replace(
        inputs,
        hidden=torch.where(inputs.valid[..., None], inputs.hidden, 1e30),
        question_hidden=torch.where(inputs.question_valid[..., None], inputs.question_hidden, -1e30),
    )
    kept = MoB().choose(inputs, counts)
    assert torch.equal(MoB().choose(junk, counts), kept)
    assert torch.equal(coupling(junk), coupling(inputs))
    assert all(map(torch.equal, coverage(junk, kept), coverage(inputs, kept)))
    # A chosen token that is gone covers nothing.
    assert all(map(torch.equal, coverage(inputs, kept | ~inputs.valid), coverage(inputs, kept)))


@pytest.mark.parametrize("fill", [0.0, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_equal_tokens_go_by_index(fill, share):
    inputs = inputs_of(torch.full((2, 7, 5), fill), torch.full((2, 3, 5), fill))
    assert kept_by(MoB(share=share), inputs, 3, 5) == [[0, 1, 2], [0, 1, 2, 3, 4]]


def test_ties_go_to_the_lower_index():
    """Question tokens halfway between axes: candidates are the lower of the two, and so are the prompt centres."""
    question = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]])
    inputs = inputs_of(torch.eye(4)[None], question)
    assert kept_by(MoB(share=1.0, k=1), inputs, 2) == [[0, 2]]
    assert kept_by(MoB(share=0.5, k=1), inputs, 2) == [[0, 1]]
    assert kept_by(MoB(share=0.5, k=2), replace(inputs, question_hidden=question.flip(1)), 2) == [[0, 1]]


@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("selector", [MoB(), MoB(share=0.0), MoB(preset="weak")])
def test_few_tokens(tokens, selector):
    valid = torch.ones(3, tokens, dtype=torch.bool)
    valid[1:2] = False
    inputs = inputs_of(torch.randn(3, tokens, 4), torch.randn(3, 2, 4), valid)
    assert torch.equal(selector.choose(inputs, valid.sum(dim=1)), valid)
    assert not selector.choose(inputs, torch.zeros(3, dtype=torch.int64)).any()


# --- coupling and coverage -------------------------------------------------------------------------------------------


def test_coupling_of_the_worked_example():
    assert coupling(EXAMPLE).item() == pytest.approx(1.2175, abs=1e-4)
    visual_far = inputs_of(EXAMPLE.hidden[:, :1], EXAMPLE.question_hidden)
    assert coupling(visual_far).item() == pytest.approx(2 * np.sin(np.deg2rad(95 / 2)), abs=1e-6)


def test_coupling_and_coverage_against_loops():
    generator = torch.Generator().manual_seed(7)
    for case in range(10):
        inputs = random_inputs(20, case, case % 4, 3, generator)
        chosen = inputs.valid & (torch.rand(inputs.valid.shape, generator=generator) < 0.5)
        eta, (prompt, image) = coupling(inputs), coverage(inputs, chosen)
        for row in range(20):
            visual, question = parts_of(inputs, row)
            centres = [visual[i] for i in visual if chosen[row, i]]
            everything = list(visual.values())
            expected = max(one_sided(everything, question), one_sided(question, everything))
            assert eta[row].item() == pytest.approx(expected, abs=1e-5)
            assert prompt[row].item() == pytest.approx(one_sided(question, centres), abs=1e-5)
            assert image[row].item() == pytest.approx(one_sided(everything, centres), abs=1e-5)


def test_coverage_of_the_worked_example():
    """Kept at 0, 90, 95 and 170 degrees: the question at 20 and the token at 45 are farthest from what stays."""
    prompt, image = coverage(EXAMPLE, MoB(share=0.5, k=2).choose(EXAMPLE, torch.tensor([4])))
    assert prompt.item() == pytest.approx(2 * np.sin(np.deg2rad(10)), abs=1e-6)
    assert image.item() == pytest.approx(2 * np.sin(np.deg2rad(22.5)), abs=1e-6)


def test_all_tokens_cover_the_image_exactly():
    inputs = random_inputs(5, 12, 3, 4, torch.Generator().manual_seed(8))
    assert coverage(inputs, inputs.valid)[1].tolist() == [0.0] * 5
    prompt, image = coverage(inputs, torch.zeros_like(inputs.valid))
    assert image.isinf().all()
    assert prompt.tolist() == [torch.inf if there else 0.0 for there in inputs.question_valid.any(dim=1).tolist()]


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"share": 1.01}, r"share = 1.01 is not a number in 0\.\.1"),
        ({"share": -0.1}, r"share = -0.1 is not a number in 0\.\.1"),
        ({"share": float("nan")}, r"share = nan is not a number"),
        ({"share": "half"}, r"share = 'half' is not a number"),
        ({"k": 0}, r"k = 0 is not a whole number in 1\.\.64"),
        ({"k": 65}, r"k = 65 is not a whole number"),
        ({"k": 2.0}, r"k = 2.0 is not a whole number"),
        ({"preset": "loose"}, r"preset = 'loose' is unknown; choose one of strong, weak"),
        ({"preset": ["weak"]}, r"preset = \['weak'\] is unknown"),
        ({"preset": "weak", "k": 4}, r"preset = 'weak' sets share and k, but share = None and k = 4"),
        ({"preset": "weak", "share": 0.0}, r"preset = 'weak' sets share and k, but share = 0.0"),
    ],
)
def test_parameters_that_are_refused(parameters, message):
    with pytest.raises(ConfigError, match=rf"^selector parameter {message}"):
        MoB(**parameters)


def test_needs_hidden_states_alone():
    assert MoB.needs == {"hidden"}


@pytest.mark.parametrize("side", ["hidden", "question_hidden"])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_broken_numbers_are_refused_where_they_count(side, broken):
    signal = getattr(EXAMPLE, side).clone()
    signal[0, 1, 1] = broken
    inputs = replace(EXAMPLE, **{side: signal})
    for call in (lambda given: MoB().choose(given, torch.tensor([2])), coupling):
        with pytest.raises(VispcoError, match="NaN"):
            call(inputs)
        there = "valid" if side == "hidden" else "question_valid"
        gone = getattr(EXAMPLE, there).clone()
        gone[0, 1] = False
        call(replace(inputs, **{there: gone}))

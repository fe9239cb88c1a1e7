"""What a calibration times: prompts of several sizes, unpruned, pruned, and under every selector."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from vispco.engine.families import Family
from vispco.errors import ConfigError

GRID = 8
"""Equal steps from all visual tokens to none, at which layers after a cut are timed."""

SHARES = (7 / 8, 1 / 2, 1 / 8)
"""Shares of the visual tokens that every selector is timed with."""

STEPS = 4
"""Decoding steps that are timed after a prefill."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """A batch of equal prompts.

    Attributes
    ----------
    inputs : mapping
        Of ``generate``.
    text, visual, images : int
        Of one of them.
    """

    inputs: Mapping[str, Tensor]
    text: int
    visual: int
    images: int

    @classmethod
    def of(cls, family: Family, inputs: Mapping[str, Tensor], batch: int) -> "Prompt":
        """Count the tokens of a batch.

        Raises
        ------
        ConfigError
            If it has not ``batch`` rows, they differ or are padded, or nothing can be dropped from them.
        """
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        if len(ids) != batch:
            raise ConfigError(f"a prompt comes {len(ids)} times where batch is {batch}; repeat it as often as that")
        if bool((ids != ids[:1]).any()) or (mask is not None and not bool(mask.all())):
            raise ConfigError("the prompts of a batch differ or are padded; repeat one prompt")
        visual = family.visual_mask(ids[0])
        begins = visual & ~nn.functional.pad(visual[:-1], (1, 0))
        count, images = int(visual.sum()), int(begins.sum())
        if count <= images:
            raise ConfigError(
                f"nothing can be dropped from a prompt with {count} visual tokens in {images} images, each of which "
                "keeps one; give prompts with larger images"
            )
        return cls(inputs, len(visual) - count, count, images)

    @property
    def total(self) -> int:
        """All tokens."""
        return self.text + self.visual

    def longer(self, tokens: int) -> "Prompt":
        """The prompt with its last text token ``tokens`` more times."""
        place = self.inputs["input_ids"].shape
        inputs = {
            name: torch.cat([value, value[:, -1:].expand(-1, tokens)], dim=1) if value.shape == place else value
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=inputs, text=self.text + tokens)


@dataclass(frozen=True)
class Run:
    """One call of ``generate`` to be timed.

    Attributes
    ----------
    prompt : Prompt
    counts : tuple of int, one per layer
        Visual tokens in every layer.
    selector : str
        Empty for the stock model.
    steps : int
        Decoding steps after the prefill.
    """

    prompt: Prompt
    counts: tuple[int, ...]
    selector: str = ""
    steps: int = 0

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens in every layer."""
        return tuple(self.prompt.text + count for count in self.counts)

    @property
    def cuts(self) -> list[int]:
        """Layers before which tokens are dropped."""
        before = (self.prompt.visual, *self.counts)
        return [layer for layer, count in enumerate(self.counts) if count < before[layer]]

    def touched(self, kinds: Sequence[int]) -> dict[int, list[int]]:
        """By cut, the layers before which something is gathered for it: its own, and the first of every kind after it.

        Parameters
        ----------
        kinds : sequence of int, one per layer
        """
        return {
            cut: sorted({cut, *(kinds.index(kind, cut) for kind in set(kinds[cut:end]))})
            for cut, end in pairwise([*self.cuts, len(self.counts)])
        }

    def before(self, cut: int) -> int:
        """Visual tokens before a cut."""
        return self.counts[cut - 1] if cut else self.prompt.visual


class Plan:
    """The runs of one round.

    Parameters
    ----------
    prompts : sequence of Prompt
    layers : int
    selectors : iterable of str
    new_tokens : int
        Longest answer.
    """

    def __init__(self, prompts: Sequence[Prompt], layers: int, selectors: Iterable[str], new_tokens: int):
        self.layers, self.new_tokens = layers, new_tokens
        self.smallest, *_, self.largest = sorted([*prompts, *prompts], key=lambda prompt: prompt.total)
        self.fewest = min(prompts, key=lambda prompt: prompt.text)
        """The prompt with the fewest text tokens."""
        self.baseline = self._stock(self.largest)
        """The unpruned prefill of the largest prompt."""
        # The unpruned prefill is in every comparison, so it is timed most often.
        self.runs = [self.baseline, *self._layers(prompts), self.baseline, *self._choices(selectors), *self._answers()]

    def _layers(self, prompts: Sequence[Prompt]) -> list[Run]:
        """Layers of all lengths, whole and pruned."""
        runs = []
        for prompt in prompts:
            grid = range(GRID + 1) if prompt is self.largest else (GRID // 2, GRID)
            runs += [self._stock(prompt), *(self._grid(prompt, (GRID - part) / GRID) for part in grid)]
        return runs

    def _choices(self, selectors: Iterable[str]) -> list[Run]:
        """Every selector."""
        runs = []
        for name in selectors:
            runs += [self._cut(self.largest, share, selector=name) for share in SHARES]
            runs += [self._cut(self.largest, 1.0, SHARES[1], selector=name, whole=True)]
            runs += [self._cut(self.largest, SHARES[0], SHARES[-1], selector=name)]
            runs += [self._cut(self.smallest, 0.5, selector=name)]
        return runs

    def _answers(self) -> list[Run]:
        """Decoding with the fewest keys and the most; for the latter a prompt is as much longer as an answer."""
        steps, longest = min(STEPS, self.new_tokens), self.largest.longer(max(0, self.new_tokens - STEPS))
        return [
            self._stock(self.smallest, steps),
            self._stock(longest, steps),
            self._cut(self.fewest, 0.0, steps=steps),
            self._cut(self.largest, 0.5, steps=steps),
            self._cut(longest, 1.0, steps=steps),
        ]

    def _stock(self, prompt: Prompt, steps: int = 0) -> Run:
        return Run(prompt, (prompt.visual,) * self.layers, steps=steps)

    def _grid(self, prompt: Prompt, share: float) -> Run:
        """All layers with the same tokens; a random choice needs no attention, so it can be made before layer 0."""
        return Run(prompt, (_kept(prompt, share),) * self.layers, "random")

    def _cut(
        self, prompt: Prompt, *shares: float, selector: str = "random", steps: int = 0, whole: bool = False
    ) -> Run:
        """Cuts before layer 1, unless layers stay whole, and for a second share in the middle of those after it."""
        middle = (self.layers + 2) // 2
        first, last = (_kept(prompt, share) for share in (shares[0], shares[-1]))
        first = prompt.visual if whole else first
        counts = [prompt.visual] + [first] * (middle - 1) + [last] * (self.layers - middle)
        return Run(prompt, tuple(counts[: self.layers]), selector, steps)


def _kept(prompt: Prompt, share: float) -> int:
    """Tokens that are left of a share: none of 0; otherwise one for every image at least, and not all."""
    return min(max(round(share * prompt.visual), prompt.images), prompt.visual - 1) if share else 0

"""What all costs have in common: an amount per sample, and its ratio of means over a set of samples."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vispco.cost.shape import DecoderShape
from vispco.errors import BudgetError, ConfigError
from vispco.schedule import check_keep, keep_counts


@dataclass(frozen=True)
class Cut:
    """Where a selector chooses tokens of one sample.

    Attributes
    ----------
    shape : DecoderShape
    tokens : float
        Text and visual tokens that run before the cut.
    visual, kept : float
        Visual tokens before and after it.
    question : float
        Text tokens after the last visual one, up to the end of the prompt.
    streams : int
        Vectors per token that a merge has to put together: its hidden state, and what the vision tower still adds to
        layers from here on (DeepStack).
    """

    shape: DecoderShape
    tokens: float
    visual: float
    kept: float
    question: float
    streams: int = 1

    @property
    def attention_row(self) -> float:
        """FLOPs of one row of attention scores, all heads."""
        return 2.0 * self.tokens * self.shape.heads * self.shape.head_dim


Selection = int | Callable[[Cut], float]
"""FLOPs of choosing tokens at a cut; a number is that of attention rows."""


@dataclass(frozen=True)
class Prompt:
    """Tokens of one sample, without padding.

    Attributes
    ----------
    text, visual : int
    images : int
        Each of which keeps a token.
    question : int or None
        Text tokens after the last image; all of them if None.
    """

    text: int
    visual: int
    images: int = 1
    question: int | None = None

    @property
    def total(self) -> int:
        """All tokens."""
        return self.text + self.visual

    def counts(self, keep: Sequence[float]) -> list[int]:
        """Visual tokens that enter every layer."""
        return [int(count) for count in keep_counts(keep, self.visual, floor=self.images)]


class Cost(ABC):
    """A cost of schedules over a set of samples, as a fraction of the unpruned model's: a ratio of means.

    Samples with equal token numbers are counted once and weighted. A subclass says what one sample costs
    (:meth:`spent`, from integer counts) and gives the differentiable twin of that (:meth:`soft_spent`).

    Parameters
    ----------
    config
        Hugging Face configuration of the model.
    tokens : sequence of (text_tokens, visual_tokens[, images[, question]]), one per sample
    options
        What a subclass needs besides.
    """

    name: ClassVar[str]
    unit: ClassVar[str]

    def __init__(self, config: Any, tokens: Sequence[tuple[int, ...]], **options: Any):
        self.config, self.options = config, options
        self.limits: dict[Cost, float] = {}
        self.shape = DecoderShape.of(config)
        self.tokens = list(tokens)
        self.kinds = sorted(set(tokens))
        self.prompts = [Prompt(*kind) for kind in self.kinds]
        self.weights = [tokens.count(kind) / len(tokens) for kind in self.kinds]
        self.text = torch.tensor([prompt.text for prompt in self.prompts], dtype=torch.float64)
        self.visual = torch.tensor([prompt.visual for prompt in self.prompts], dtype=torch.float64)
        self._weight = torch.tensor(self.weights, dtype=torch.float64)
        self._whole = [self.spent(prompt, [prompt.visual] * self.shape.layers) for prompt in self.prompts]

    @abstractmethod
    def spent(self, prompt: Prompt, counts: Sequence[int]) -> float:
        """What one sample costs, in :attr:`unit`.

        Parameters
        ----------
        prompt : Prompt
        counts : sequence of int, length layers
            Visual tokens in every layer.
        """

    @abstractmethod
    def soft_spent(self, visual: Tensor) -> Tensor:
        """Differentiable twin of :meth:`spent` for fractions of tokens.

        Parameters
        ----------
        visual : Tensor, shape (..., layers, kinds), float64
            Visual tokens in every layer, of every kind of sample.

        Returns
        -------
        Tensor, shape (..., kinds), float64
        """

    @property
    def basis(self) -> str:
        """What amounts depend on besides model, samples and schedule; costs of different basis do not compare."""
        return ""

    @property
    def unpruned(self) -> float:
        """Mean amount of the unpruned model, in :attr:`unit`."""
        # Here and below in the same order, so that the unpruned schedule costs 1.0 and not a rounding error more.
        return sum(weight * whole for weight, whole in zip(self.weights, self._whole, strict=True))

    def amount(self, keep: Sequence[float]) -> float:
        """Mean amount under a schedule, in :attr:`unit`; of the integer counts that it rounds to.

        Raises
        ------
        ConfigError
            If ``keep`` is not a schedule for this model.
        """
        keep = check_keep(keep, self.shape.layers)
        spent = [self.spent(prompt, prompt.counts(keep)) for prompt in self.prompts]
        return sum(weight * each for weight, each in zip(self.weights, spent, strict=True))

    def exact(self, keep: Sequence[float]) -> float:
        """:meth:`amount` as a fraction of the unpruned one: what a budget limits."""
        return self.amount(keep) / self.unpruned

    def exact_each(self, keeps: Sequence[Sequence[float]]) -> float:
        """:meth:`exact` where every sample has a schedule of its own.

        Parameters
        ----------
        keeps : sequence of schedules, one per sample in the order of ``tokens``

        Raises
        ------
        ConfigError
            If they are not as many as the samples, or one is not a schedule for this model.
        """
        if len(keeps) != len(self.tokens):
            raise ConfigError(
                f"{len(keeps)} schedules were given for {len(self.tokens)} samples; give one for each, in their order"
            )
        whole = dict(zip(self.kinds, self._whole, strict=True))
        spent = [
            self.spent(prompt, prompt.counts(check_keep(keep, self.shape.layers)))
            for keep, prompt in zip(keeps, (Prompt(*kind) for kind in self.tokens), strict=True)
        ]
        return sum(spent) / sum(whole[kind] for kind in self.tokens)

    def soft(self, ratios: Tensor) -> Tensor:
        """Differentiable twin of :meth:`exact`, without rounding.

        Parameters
        ----------
        ratios : Tensor, shape (..., layers)

        Returns
        -------
        Tensor, shape (...), float64
        """
        spent = self.soft_spent(ratios.double()[..., None] * self.visual)
        return (spent * self._weight).sum(dim=-1) / self.unpruned

    def of(self, tokens: Sequence[tuple[int, ...]]) -> Self:
        """The same cost, with the same limits, over other samples."""
        own = type(self)(self.config, tokens, **self.options)
        return own.within({cost.of(tokens): limit for cost, limit in self.limits.items()})

    # What a search asks.

    def within(self, limits: Mapping["Cost", float]) -> Self:
        """The cost itself, for schedules within fixed limits on other ones.

        Parameters
        ----------
        limits : mapping of Cost to float
            Largest ratio of each; costs of the same samples.
        """
        limited = copy.copy(self)
        limited.limits = dict(limits)
        return limited

    def fits(self, keep: Sequence[float], budget: float) -> bool:
        """Whether a schedule is within a budget, and within all limits."""
        return all(excess <= 0.0 for excess in self.exact_excess(keep, budget))

    def exact_excess(self, keep: Sequence[float], budget: float) -> list[float]:
        """Exact cost less its budget, then those of the limits."""
        return [self.exact(keep) - budget, *(cost.exact(keep) - limit for cost, limit in self.limits.items())]

    def excess(self, ratios: Tensor, budgets: Tensor) -> Tensor:
        """Differentiable twin of :meth:`exact_excess`.

        Parameters
        ----------
        ratios : Tensor, shape (problems, layers), or (problems, samples, layers), of which the mean cost counts
        budgets : Tensor, shape (problems,)

        Returns
        -------
        Tensor, shape (problems, 1 + limits), float64
        """
        costs = torch.stack([cost.soft(ratios) for cost in (self, *self.limits)], dim=-1)
        mean = costs if costs.dim() == 2 else costs.mean(dim=1)
        limits = [torch.full_like(budgets, limit, dtype=torch.float64) for limit in self.limits.values()]
        return mean - torch.stack([budgets.double(), *limits], dim=-1)

    def allows(self, costs: Mapping[str, float]) -> bool:
        """Whether ratios by name are within all limits."""
        return all(costs[cost.name] <= limit for cost, limit in self.limits.items())

    def reachable(self, floor: Sequence[float]) -> tuple[float, float]:
        """Smallest and largest cost, where ``floor`` is the cheapest schedule allowed.

        The smallest is that of the unpruned model where choosing tokens costs more than it saves.
        """
        return min(self.exact(floor), 1.0), 1.0

    def check_budget(self, budget: float, floor: Sequence[float]) -> None:
        """Refuse a budget or a limit that no schedule can meet.

        Raises
        ------
        BudgetError
            With the reachable range.
        """
        for cost, bound in ((self, budget), *self.limits.items()):
            least, most = cost.reachable(floor)
            if not least <= bound <= most:
                raise BudgetError(
                    f"budget {bound:g} of {cost.name} cannot be reached: for this model and data it runs from "
                    f"{least:.3f} (text tokens and the layers that must stay whole) to {most:.3f} of the unpruned "
                    f"model; choose a budget in between"
                )

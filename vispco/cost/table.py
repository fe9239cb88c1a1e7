"""What layers, cuts and everything around them took on one device: a latency table, stored as JSON."""

import hashlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor

from vispco.cost.shape import Number
from vispco.document import Document, Frozen
from vispco.errors import ConfigError

AGAIN = "profile again with this data"
"""What to do about a prompt that a table does not reach to."""

Seconds = Annotated[float, Field(ge=0.0, le=1e9)]
"""Up to 30 years: sums of damaged numbers beyond that could overflow."""


class Curve(Frozen):
    """Seconds over numbers of tokens: straight between the points that were measured, never falling.

    Attributes
    ----------
    tokens : tuple of float, rising
    seconds : tuple of float, as many
    """

    tokens: Annotated[tuple[float, ...], Field(min_length=1)]
    seconds: tuple[Seconds, ...]

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        if len(self.seconds) != len(self.tokens):
            raise ValueError(f"{len(self.seconds)} times for {len(self.tokens)} numbers of tokens; give one for each")
        for low, high in pairwise(self.tokens):
            if low >= high:
                raise ValueError(f"tokens {high:g} follow {low:g}; numbers of tokens must rise")
        for before, after in pairwise(self.seconds):
            if before > after:
                raise ValueError(f"{after:g} s follow {before:g} s; more tokens cannot take less time")
        return self

    def __call__(self, tokens: Tensor) -> Tensor:
        """Seconds for any, also fractional, numbers of tokens; float64. Differentiable, and not checked for range."""
        if len(self.tokens) == 1:
            return torch.full_like(tokens, self.seconds[0])
        at, seconds = (torch.tensor(values, dtype=torch.float64) for values in (self.tokens, self.seconds))
        right = torch.searchsorted(at, tokens.detach().contiguous(), right=True).clamp(1, len(at) - 1)
        slope = (seconds[right] - seconds[right - 1]) / (at[right] - at[right - 1])
        return seconds[right - 1] + slope * (tokens - at[right - 1])

    def check(self, what: str, low: float, high: float) -> None:
        """Refuse numbers of tokens that were not measured.

        Raises
        ------
        ConfigError
            If ``low`` or ``high`` is outside the range, with the range.
        """
        for tokens in (low, high):
            if not self.tokens[0] <= tokens <= self.tokens[-1]:
                raise ConfigError(
                    f"the latency table has {what} for {self.tokens[0]:g} to {self.tokens[-1]:g} tokens, and "
                    f"{tokens:g} are asked for; {AGAIN}"
                )


class LayerTimes(Frozen):
    """Seconds of one kind of decoder layer.

    Attributes
    ----------
    window : int or None
        Sliding window of its attention; None for full attention.
    whole, pruned : Curve
        In the prefill, over the tokens that run in the layer: before any cut, and after one, where the engine works on
        gathered masks and rotary tables.
    decode_whole, decode_pruned : Curve
        One new token, over the keys that it finds, its own included and a window left aside: in a model where nothing
        was cut, and where something was.
    """

    window: int | None
    whole: Curve
    pruned: Curve
    decode_whole: Curve
    decode_pruned: Curve


class SelectorTimes(Frozen):
    """Seconds that choosing and dropping tokens take.

    Attributes
    ----------
    params : dict
        Parameters of the selector that was measured.
    once : tuple of 2 float
        Of a prefill in which anything is cut, over 1 and N: signals of the vision tower, putting survivors back.
    cut : tuple of 5 float
        Of every cut, over 1, n, k, n k and n n.

    With N tokens of the prompt, n visual tokens before the cut and k after it. Coefficients are not negative, so more
    tokens never take less time.
    """

    params: dict[str, JsonValue] = Field(default_factory=dict)
    once: Annotated[tuple[Seconds, ...], Field(min_length=2, max_length=2)]
    cut: Annotated[tuple[Seconds, ...], Field(min_length=5, max_length=5)]

    def per_prefill(self, tokens: Number) -> Number:
        """Seconds for a prompt of ``tokens``, whatever the number of cuts."""
        return self.once[0] + self.once[1] * tokens

    def per_cut(self, visual: Number, kept: Number) -> Number:
        """Seconds of one cut."""
        fixed, before, after, product, square = self.cut
        return fixed + before * visual + after * kept + product * visual * kept + square * visual * visual


class TableKey(Frozen):
    """Where a table is valid.

    Attributes
    ----------
    device : str
        Its name.
    threads : int
        Of the process, on its CPU.
    dtype : str
    backend : str
        Attention implementation of the decoder.
    batch : int
        Equal samples that run at once; all seconds are those of such a batch.
    torch, transformers : str
        Versions.
    model : str
        ``model_type``.
    parameters : int
        Of the whole model.
    decoder : dict of str to int
        Sizes of :class:`vispco.cost.DecoderShape`.
    """

    device: str
    threads: int
    dtype: str
    backend: str
    batch: Annotated[int, Field(ge=1)]
    torch: str
    transformers: str
    model: str
    parameters: int
    decoder: dict[str, int]


class Protocol(Frozen):
    """How a table was measured.

    Attributes
    ----------
    clock : str
        "wall", or "cpu" for the process's own CPU time.
    repeats : int
        Rounds; every entry of the table comes from medians over them.
    warm_up : int
        Unpruned prefills before the first round, until their times had settled.
    spread : float
        Median over what was timed of its interquartile range over rounds, as a fraction of its median.
    drift : float
        Unpruned prefill at the end over that at the start.
    """

    clock: str
    repeats: Annotated[int, Field(ge=1)]
    warm_up: Annotated[int, Field(ge=0)]
    spread: Seconds
    drift: Seconds


class LatencyTable(Document):
    """Seconds of all parts of a prefill and of decoding, for batches of ``key.batch`` equal samples.

    Attributes
    ----------
    schema_version : str
        "major.minor"; a newer major version is refused.
    key : TableKey
    kinds : tuple of LayerTimes
    layers : tuple of int
        Kind of every decoder layer.
    outside : Curve
        Seconds of an unpruned prefill outside the decoder layers, over the tokens of the prompt: vision tower,
        embeddings, masks, logits. A smaller prompt than the smallest measured takes as long as that one.
    decode_outside : float
        The same for one new token.
    hook : float
        What a layer before the first cut takes longer in a prefill than a layer of the stock model.
    selectors : dict of str to SelectorTimes
    protocol : Protocol
    """

    VERSION: ClassVar[str] = "1.0"
    WANTED: ClassVar[str] = "make a table with vispco profile"
    DAMAGED: ClassVar[str] = "profile again"

    schema_version: str = VERSION
    key: TableKey
    kinds: Annotated[tuple[LayerTimes, ...], Field(min_length=1)]
    layers: Annotated[tuple[int, ...], Field(min_length=1)]
    outside: Curve
    decode_outside: Seconds
    hook: Seconds = 0.0
    selectors: dict[str, SelectorTimes]
    protocol: Protocol

    @model_validator(mode="after")
    def _kinds_exist(self) -> Self:
        for layer, kind in enumerate(self.layers):
            if not 0 <= kind < len(self.kinds):
                raise ValueError(f"layers[{layer}] = {kind} is no kind; there are {len(self.kinds)}")
        return self

    @property
    def digest(self) -> str:
        """Names the table; 12 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def check(self, key: TableKey) -> None:
        """Refuse to predict for another device, model or way of running it.

        Raises
        ------
        ConfigError
            With the first field that differs, and both values.
        """
        mine, other = _flat(self.key), _flat(key)
        for name in [*mine, *other]:
            if mine.get(name) != other.get(name):
                raise ConfigError(
                    f"the latency table was measured with {name} = {mine.get(name)!r}, and this is "
                    f"{other.get(name)!r}; make a table here with vispco profile"
                )

    def selector(self, name: str) -> SelectorTimes:
        """Seconds of a selector's cuts.

        Raises
        ------
        ConfigError
            If it was not measured, with those that were.
        """
        if name not in self.selectors:
            raise ConfigError(
                f"the latency table has no selector {name!r}, only {', '.join(sorted(self.selectors))}; choose one of "
                "them, or profile again with it"
            )
        return self.selectors[name]


def _flat(key: TableKey) -> Mapping[str, Any]:
    """Fields by name, decoder sizes among them."""
    fields = key.model_dump()
    sizes = {f"decoder.{name}": value for name, value in fields.pop("decoder").items()}
    return {**fields, **sizes}

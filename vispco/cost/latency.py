"""Time of a prefill, and of a whole answer, predicted from a latency table."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vispco.cost.base import Cost, Prompt
from vispco.cost.table import Curve, LatencyTable
from vispco.errors import ConfigError

SHARE = 0.02
"""Share of the tokens, dropped at a cut, from which the soft cost sees it as one; see :func:`gate`."""


def gate(dropped: Tensor) -> Tensor:
    """How much of a cut there is where a share of the tokens is dropped: ``1 - exp(-dropped / SHARE)``.

    0 where none is dropped, 0.993 for a tenth. Its slope at 0 lets a gradient see that a cut is not free.
    """
    return -torch.expm1(-dropped / SHARE)


class LatencyCost(Cost):
    """Seconds of the whole prefill, everything outside the decoder included, for a batch of equal samples.

    A prompt has N tokens, of which ``v_-1`` are visual. In layer ``l`` there are ``n_l`` tokens, of which ``v_l`` are
    visual; the first cut is before layer ``c``::

        outside(N) + sum over l < c of whole_l(N) + sum over l >= c of pruned_l(n_l)
                   + once(N) + c hook if anything is cut + sum over cuts of cut(v_(l-1), v_l)

    The curves are those of the table (:class:`vispco.cost.table.LatencyTable`), each layer's of its kind. The soft twin
    takes fractional tokens and weighs what comes with a cut by :func:`gate` of the share that is dropped: of the tokens
    before the cut for ``cut``, of all visual tokens by layer ``l`` for the rest::

        outside(N) + sum over l of pruned_l(n_l) + (1 - gate(1 - v_l / v_-1)) (whole_l(N) - pruned_l(N))
                   + gate(1 - v_last / v_-1) once(N) + sum over l of gate(1 - v_l / v_(l-1)) cut(v_(l-1), v_l)
                   + sum over l of (gate(1 - v_last / v_-1) - gate(1 - v_l / v_-1)) hook

    Both agree where nothing is dropped, and up to 0.7 % of those terms where every cut drops a tenth or more.

    Parameters
    ----------
    config, tokens
        As of :class:`vispco.cost.base.Cost`.
    table : LatencyTable
        Of this model; :meth:`LatencyTable.check` says whether it is of this device.
    selector : str

    Raises
    ------
    ConfigError
        If the table is of a model with another number of layers, was not measured with this selector, or does not
        reach to a sample's number of tokens.
    """

    name, unit = "latency", "s"

    def __init__(self, config: Any, tokens: Sequence[tuple[int, ...]], table: LatencyTable, selector: str):
        self.table, self.times = table, table.selector(selector)
        self._groups = [
            (kind, torch.tensor([layer for layer, own in enumerate(table.layers) if own == index], dtype=torch.int64))
            for index, kind in enumerate(table.kinds)
        ]
        self._check(config, [Prompt(*kind) for kind in sorted(set(tokens))])
        super().__init__(config, tokens, **self._options(selector))
        self._total = self.text + self.visual
        self._outside = self._before_and_after(self._total)

    def _options(self, selector: str) -> dict[str, Any]:
        return {"table": self.table, "selector": selector}

    def _check(self, config: Any, prompts: Sequence[Prompt]) -> None:
        layers = config.get_text_config().num_hidden_layers
        if len(self.table.layers) != layers:
            raise ConfigError(
                f"the latency table is of a model with {len(self.table.layers)} decoder layers, and this one has "
                f"{layers}; make a table of it with vispco profile"
            )
        most = max(prompt.total for prompt in prompts)
        if most > self.table.outside.tokens[0]:
            self.table.outside.check("prompts", most, most)
        for kind in self.table.kinds:
            kind.whole.check("whole layers", min(prompt.total for prompt in prompts), most)
            kind.pruned.check("pruned layers", min(prompt.text for prompt in prompts), most)

    @property
    def basis(self) -> str:
        """Digest of the table."""
        return self.table.digest

    def spent(self, prompt: Prompt, counts: Sequence[int]) -> float:
        """Seconds of one prefill."""
        before = [prompt.visual, *counts[:-1]]
        cut = [count < prompt.visual for count in counts]
        total = torch.tensor([float(prompt.total)], dtype=torch.float64)
        tokens = prompt.text + torch.tensor(counts, dtype=torch.float64)
        seconds = float(self._before_and_after(total))
        for kind, layers in self._groups:
            where = torch.tensor(cut)[layers]
            seconds += float(torch.where(where, kind.pruned(tokens[layers]), kind.whole(total)).sum())
        if any(cut):
            seconds += self.times.per_prefill(float(prompt.total)) + cut.index(True) * self.table.hook
        cuts = [(had, kept) for had, kept in zip(before, counts, strict=True) if kept < had]
        return seconds + sum(self.times.per_cut(float(had), float(kept)) for had, kept in cuts)

    def soft_spent(self, visual: Tensor) -> Tensor:
        """The same for fractions of tokens."""
        before = torch.cat([self.visual.expand_as(visual[..., :1, :]), visual[..., :-1, :]], dim=-2)
        gone = gate(1.0 - share(visual, self.visual))
        cuts = gate(1.0 - share(visual, before)) * self.times.per_cut(before, visual)
        seconds = self._outside + cuts.sum(dim=-2) + gone[..., -1, :] * self.times.per_prefill(self._total)
        seconds = seconds + self.table.hook * (gone[..., -1:, :] - gone).sum(dim=-2)
        for kind, layers in self._groups:
            extra = kind.whole(self._total) - kind.pruned(self._total)
            each = kind.pruned(self.text + visual[..., layers, :]) + (1.0 - gone[..., layers, :]) * extra
            seconds = seconds + each.sum(dim=-2)
        return seconds

    def _before_and_after(self, total: Tensor) -> Tensor:
        """Seconds outside the decoder layers; a prompt below the smallest measured takes as long as that one."""
        return self.table.outside(total.clamp(min=self.table.outside.tokens[0]))


def share(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, and 1 where there is nothing to be a part of."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 1.0)


class GenerationCost(LatencyCost):
    """Seconds of the prefill and of ``new_tokens`` tokens decoded after the one that it gives.

    Token ``t`` (from 1) finds ``n_l + t`` keys in layer ``l``, its own included::

        prefill + new_tokens outside + sum over t and l of decode_l(n_l + t)

    with the curve of whole layers where nothing was dropped by layer ``l``, and that of pruned ones elsewhere; the soft
    twin goes from one to the other as in the prefill.

    Parameters
    ----------
    config, tokens, table, selector
        As of :class:`LatencyCost`.
    new_tokens : int

    Raises
    ------
    ConfigError
        As of :class:`LatencyCost`.
    """

    name, unit = "generation", "s"

    def __init__(
        self, config: Any, tokens: Sequence[tuple[int, ...]], table: LatencyTable, selector: str, new_tokens: int
    ):
        self.new_tokens = new_tokens
        self._steps = torch.arange(1, new_tokens + 1, dtype=torch.float64)
        super().__init__(config, tokens, table, selector)

    def _options(self, selector: str) -> dict[str, Any]:
        return {**super()._options(selector), "new_tokens": self.new_tokens}

    def _check(self, config: Any, prompts: Sequence[Prompt]) -> None:
        super()._check(config, prompts)
        most = max(prompt.total for prompt in prompts) + self.new_tokens
        for kind in self.table.kinds:
            kind.decode_whole.check("decoding unpruned", min(prompt.total for prompt in prompts) + 1, most)
            kind.decode_pruned.check("decoding pruned", min(prompt.text for prompt in prompts) + 1, most)

    @property
    def basis(self) -> str:
        """Digest of the table, and the number of new tokens."""
        return f"{super().basis}, {self.new_tokens} new tokens"

    def spent(self, prompt: Prompt, counts: Sequence[int]) -> float:
        """Seconds of one answer."""
        cut = torch.tensor([count < prompt.visual for count in counts])
        tokens = prompt.text + torch.tensor(counts, dtype=torch.float64)
        seconds = super().spent(prompt, counts) + self.new_tokens * self.table.decode_outside
        for kind, layers in self._groups:
            found = tokens[layers]
            each = torch.where(
                cut[layers], self._answer(kind.decode_pruned, found), self._answer(kind.decode_whole, found)
            )
            seconds += float(each.sum())
        return seconds

    def soft_spent(self, visual: Tensor) -> Tensor:
        """The same for fractions of tokens."""
        gone = gate(1.0 - share(visual, self.visual))
        seconds = super().soft_spent(visual) + self.new_tokens * self.table.decode_outside
        for kind, layers in self._groups:
            extra = self._answer(kind.decode_whole, self._total) - self._answer(kind.decode_pruned, self._total)
            each = self._answer(kind.decode_pruned, self.text + visual[..., layers, :])
            seconds = seconds + (each + (1.0 - gone[..., layers, :]) * extra).sum(dim=-2)
        return seconds

    def _answer(self, curve: Curve, tokens: Tensor) -> Tensor:
        """Seconds of one layer for all new tokens after a prefill of ``tokens``; shape of ``tokens``."""
        return curve(tokens[..., None] + self._steps).sum(dim=-1)

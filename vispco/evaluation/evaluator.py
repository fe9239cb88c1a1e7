"""Quality of many schedules on the same samples, with everything shared that can be.

Inputs of the first decoder layer and the unpruned model's answers are computed once. Schedules that begin alike share
the layers of their common beginning: they are walked as a tree, and the tree is charged to a ledger. Several processes
share the batches out, and each has all results; every one captures all inputs.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import JsonValue
from torch import Tensor

from vispco import parallel
from vispco.capacity import within_memory
from vispco.cost import Cost, DecoderShape, LatencyTable, Workload, make_cost, make_costs
from vispco.data import Sample, data_fingerprint
from vispco.engine import TOWER, Replay, observed_attention
from vispco.engine.prefill import Prefill
from vispco.errors import ConfigError
from vispco.evaluation.cache import TeacherCache, batch_origin, model_origin
from vispco.evaluation.finite import check_finite
from vispco.evaluation.ledger import Ledger
from vispco.evaluation.official import Official
from vispco.evaluation.prompts import END, NOTHING, prepare, sizes_of
from vispco.evaluation.teacher import Quality, TeacherBatch
from vispco.schedule import check_keep, keep_counts
from vispco.selectors import make_selector
from vispco.state import State

Schedule = tuple[float, ...]

BATCH = "data.batch_size"
"""Setting of how many samples run at once."""


class Evaluator:
    """Evaluates schedules of one model and selector on one set of samples.

    Parameters
    ----------
    model, processor
        From :func:`vispco.engine.load_checkpoint`.
    samples : sequence of Sample
    selector : str
    selector_params : mapping
    ledger : Ledger or None
        Charged with every layer that runs, and with the unpruned answers even if they come from a cache: what a search
        is said to cost must not depend on what ran before it.
    batch_size : int
    cache : TeacherCache or None
        Where unpruned answers are kept between runs; nowhere if None. Results are the same bit by bit.
    new_tokens : int
        Answers that costs of decoding are counted for, beyond their first token.
    table : LatencyTable or None
        For costs in time.
    official : Official or None
        Scores generated answers. If None, scores are read off teacher forcing, for nothing: exact match of tokens.
    state : State or None
        Of the search: what it holds is not evaluated again.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        samples: Sequence[Sample],
        selector: str = "fastv",
        selector_params: Mapping[str, Any] | None = None,
        *,
        ledger: Ledger | None = None,
        batch_size: int = 125,
        cache: TeacherCache | None = None,
        new_tokens: int = 32,
        table: LatencyTable | None = None,
        official: Official | None = None,
        state: State | None = None,
    ):
        self.state = state or State()
        self._about = "" if self.state.folder is None else data_fingerprint(samples)
        self.samples, self.processor = samples, processor
        self.ledger = ledger if ledger is not None else Ledger()
        self.shape = DecoderShape.of(model.config)
        self.selector_name, self.selector_params = selector, dict(selector_params or {})
        self.selector = make_selector(selector, selector_params)
        self.replay = Replay(model, self.selector)
        self.model = model
        self.new_tokens, self.table, self.official = new_tokens, table, official
        stops = model.generation_config.eos_token_id
        self._stops = torch.tensor([stops] if isinstance(stops, int) else list(stops or []), dtype=torch.int64)
        origin = {} if cache is None else model_origin(model)
        with observed_attention(self.replay.family):
            parts = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
            own = parallel.share(len(parts))
            batches = [
                within_memory(partial(self._teach, part, cache, origin, unit in own), len(part), BATCH)
                for unit, part in enumerate(parts)
            ]
        self.batches = [
            replace(batch, teacher=parallel.hand_out(batch.teacher, unit)) for unit, batch in enumerate(batches)
        ]

    def share(self, selector: str, selector_params: Mapping[str, Any] | None = None) -> "Evaluator":
        """The same samples and teacher under another selector."""
        other = copy.copy(self)
        other.selector_name, other.selector_params = selector, dict(selector_params or {})
        other.selector = make_selector(selector, selector_params)
        other.replay = Replay(self.model, other.selector)
        if any(other.selector.needs & TOWER - set(batch.captured.pictured) for batch in self.batches):
            with observed_attention(other.replay.family):
                other.batches = list(other._look_again())
        return other

    def _look_again(self) -> Iterator[TeacherBatch]:
        """The batches with what this selector needs of the vision tower, which another one did not."""
        start = 0
        for batch in self.batches:
            prompts = prepare(self.processor, self.samples[start : start + len(batch.rows)])
            start += len(batch.rows)
            pictured = self.replay.capture(prompts.inputs, prompts.query).pictured
            yield replace(batch, captured=replace(batch.captured, pictured=pictured))

    def head(self, samples: int, ledger: Ledger) -> "Evaluator":
        """The first ``samples`` samples only, charged to ``ledger`` with their unpruned answers."""
        other = copy.copy(self)
        other.samples, other.ledger, other.batches = self.samples[:samples], ledger, []
        left = len(other.samples)
        for batch in self.batches:
            if left > 0:
                other.batches.append(batch.head(min(left, len(batch.rows))))
                left -= len(batch.rows)
        ledger.add_forwards(len(other.samples))
        return other

    def cost(self, name: str = "flops") -> Cost:
        """The cost called ``name`` for these prompts and this selector.

        Raises
        ------
        ConfigError
            If there is none of that name, or it is a time and there is no table.
        """
        return make_cost(name, self.workload())

    def costs(self) -> dict[str, Cost]:
        """All costs for these prompts and this selector, by name; times only with a table."""
        return make_costs(self.workload())

    def workload(self, tokens: Sequence[tuple[int, ...]] | None = None) -> Workload:
        """What costs are counted of; of prompts with these numbers of tokens, or of the evaluator's own if None."""
        if tokens is None:
            starts = ((self.replay.start(batch.captured), batch.text_tokens) for batch in self.batches)
            tokens = [size for start in starts for size in sizes_of(*start)]
        return Workload(
            self.model.config, tokens, self.model.dtype, self.selector_name, self.selector.flops, self.new_tokens,
            self.table,
        )  # fmt: skip

    def evaluate(
        self,
        schedules: Sequence[Sequence[float] | ArrayLike],
        *,
        limit: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> list[Quality]:
        """Quality of every schedule, tokens physically dropped.

        Parameters
        ----------
        schedules : sequence of schedules
            Each of shape (layers,), or (samples, layers) with a schedule for every sample in their order; both kinds
            may be mixed.
        limit : int or None
            Use the first ``limit`` samples only.
        advance : callable or None
            Called with the number of samples done, for a progress bar.

        Raises
        ------
        ConfigError
            If a schedule is not for as many layers or samples, or one of a sample's own is none.
        CapacityError
            If a batch does not fit into memory, with the size of one that does.
        NumericError
            If the KL is not finite, naming the sample and the schedule.
        """
        tables = [self._table(schedule) for schedule in schedules]
        number = len(self.samples) if limit is None else min(limit, len(self.samples))
        parallel.check_together("schedules to evaluate", *tables)
        spans = list(self._spans(number))

        def walk(unit: int) -> Tensor:
            batch, first, last = spans[unit]
            return within_memory(partial(self._measure, batch, tables, first), last - first, BATCH)

        with observed_attention(self.replay.family), torch.no_grad():
            results = self.state.work(
                [self.request("walk", first, last, schedules=_digest(tables)) for _, first, last in spans],
                [2 * len(tables) * (last - first) + 1 for _, first, last in spans],
                walk,
                lambda unit: advance(spans[unit][2] - spans[unit][1]) if advance else None,
            )
        for result in results:
            self.ledger.add_forwards(float(result[-1]))
        parts = [result[:-1].view(2, len(tables), -1) for result in results]
        kl, score = torch.cat(parts, dim=2).numpy() if parts else np.zeros((2, len(tables), 0))
        if self.official is not None:
            score = self._judge(tables, number)
        return [Quality(*both) for both in zip(kl, score, strict=True)]

    def _measure(self, batch: TeacherBatch, tables: Sequence[Tensor], first: int, size: int) -> Tensor:
        """KL and score of the first ``size`` samples of a batch under every schedule, and last the forwards it took."""
        part = batch.head(size)
        start = self.replay.start(part.captured)
        walked, spent = self._walk(part, start, [_counts(table, first, start) for table in tables])
        found = torch.zeros(2, len(tables), size, dtype=torch.float64)
        for index, logits in walked:
            found[0, index] = part.divergence(logits).cpu()
            found[1, index] = self.right(part, logits).cpu()
            keep = tables[index].tolist() if tables[index].dim() == 1 else "of its own"
            what = f"its KL under selector {self.selector_name} with keep {keep}"
            check_finite(what, found[0, index], self.model, self.samples[first : first + size])
        return torch.cat([found.flatten(), torch.tensor([spent], dtype=torch.float64)])

    def _spans(self, number: int) -> Iterator[tuple[TeacherBatch, int, int]]:
        """Batches that the first ``number`` samples are in, each with its first sample and the one after its last."""
        first = 0
        for batch in self.batches:
            last = min(first + len(batch.rows), number)
            if first < last:
                yield batch, first, last
            first = last

    def _judge(self, tables: Sequence[Tensor], number: int) -> NDArray[np.float64]:
        """Official scores of the first samples under every schedule; shape (schedules, number)."""
        official, samples = self.official, self.samples[:number]
        assert official is not None

        def judge(unit: int) -> Tensor:
            schedule = tables[unit] if tables[unit].dim() == 1 else tables[unit][:number]
            found = official.scores_under(
                self.model, self.processor, samples, schedule.numpy(), self.selector_name, self.selector_params
            )
            return torch.from_numpy(found)

        requests = [self.request("judge", 0, number, schedules=_digest([table])) for table in tables]
        return torch.stack(self.state.work(requests, [number] * len(tables), judge)).numpy()

    def request(self, what: str, first: int, last: int, **more: JsonValue) -> dict[str, JsonValue]:
        """What numbers of samples ``first`` to ``last`` are a function of, besides the facts of the state."""
        selector: dict[str, JsonValue] = {"selector": self.selector_name, "selector_params": self.selector_params}
        return {"what": what, "data": self._about, "first": first, "last": last, **selector, **more}

    def _table(self, schedule: Sequence[float] | ArrayLike) -> Tensor:
        """A schedule, shape (layers,), or one per sample, shape (samples, layers); float64."""
        table = torch.as_tensor(schedule, dtype=torch.float64)
        shapes = (self.replay.layers,), (len(self.samples), self.replay.layers)
        if table.shape not in shapes:
            raise ConfigError(
                f"a schedule of shape {tuple(table.shape)} cannot be used; give {shapes[0]}, a ratio for every layer, "
                f"or {shapes[1]}, such a row for every sample"
            )
        for row in table.tolist() if table.dim() == 2 else ():
            check_keep(row)
        return table

    def _teach(
        self, samples: Sequence[Sample], cache: TeacherCache | None, origin: Mapping[str, str], mine: bool, size: int
    ) -> TeacherBatch:
        """A batch of the first ``size``; without the unpruned answers if these are another process' to find."""
        samples = samples[:size]
        batch = prepare(self.processor, samples)
        captured = self.replay.capture(batch.inputs, batch.query)
        device = captured.visual.device
        rows = batch.rows.to(device)

        def run() -> Tensor:
            full = self.replay.run(captured, (1.0,) * self.replay.layers, rows).float().log_softmax(dim=-1)
            check_finite("the unpruned model's logits", full, self.model, samples)
            return full

        if not mine:
            teacher = captured.hidden.new_empty(0, 0, 0, dtype=torch.float32)
        elif cache is None:
            teacher = run()
        else:
            place = {**origin, **batch_origin({**batch.inputs, "rows": batch.rows})}
            teacher = cache.recall(place, tuple(rows.shape), run)
        self.ledger.add_forwards(len(samples))
        text = batch.prompt_tokens - captured.visual_tokens.cpu()
        return TeacherBatch(captured, rows, batch.targets.to(device), teacher.to(device), text)

    def _walk(self, batch: TeacherBatch, start: Any, counts: list[Tensor]) -> tuple[list[tuple[int, Tensor]], float]:
        """Logits of every schedule, depth first through the tree of common beginnings; and the forwards it took."""
        results: list[tuple[int, Tensor]] = []
        spent: list[float] = []
        captured, layers = batch.captured, self.replay.layers

        def advance(layer: int, hidden: Tensor, prefill: Any, key: tuple[int, ...], group: list[int]) -> Any:
            """State and output of a layer that all of a group run with as many tokens."""
            kept = torch.tensor(key)
            prefill, hidden = prefill.enter(layer, kept, hidden, captured.arguments[layer])
            prefill.watch = any(bool((counts[index][layer + 1 : layer + 2] < kept).any()) for index in group)
            spent.append(self._price(batch, kept))
            return self.replay.layer(layer, hidden, prefill, captured), prefill

        def descend(layer: int, state: list[Any], members: list[int]) -> None:
            # The state is taken out of the list, so that no caller holds on to it while deeper layers run.
            hidden, prefill = state.pop()
            while layer < layers:
                branches: dict[tuple[int, ...], list[int]] = {}
                for index in members:
                    branches.setdefault(tuple(counts[index][layer].tolist()), []).append(index)
                if len(branches) > 1:
                    for key, group in branches.items():
                        descend(layer + 1, [advance(layer, hidden, prefill, key, group)], group)
                    return
                hidden, prefill = advance(layer, hidden, prefill, next(iter(branches)), members)
                layer += 1
            logits = self.replay.logits(hidden, prefill, batch.rows)
            results.extend((index, logits) for index in members)

        descend(0, [(captured.hidden, start)], list(range(len(counts))))
        return results, sum(spent)

    def charge_layer(self, batch: TeacherBatch, kept: Tensor, passes: int = 1) -> None:
        """Charge ``passes`` runs of one layer with ``kept`` visual tokens per sample."""
        self.ledger.add_forwards(passes * self._price(batch, kept))

    def _price(self, batch: TeacherBatch, kept: Tensor) -> float:
        """Forwards that a run of one layer is worth."""
        text = batch.text_tokens.double()
        run = self.shape.layer(text + kept.cpu().double())
        whole = self.shape.layers * self.shape.layer(text + batch.captured.visual_tokens.cpu().double())
        return float((run / whole).sum())

    def right(self, batch: TeacherBatch, logits: Tensor) -> Tensor:
        """Whether every greedy token is the answer's, and the text then ends; shape (batch,), bool."""
        said = logits.argmax(dim=-1).to(batch.targets.device)
        ends = (
            torch.isin(said, self._stops.to(said.device))
            if len(self._stops)
            else torch.ones_like(said, dtype=torch.bool)
        )
        right = torch.where(batch.targets == END, ends, said == batch.targets)
        return (right | (batch.targets == NOTHING)).all(dim=1)


def _counts(table: Tensor, first: int, start: Prefill) -> Tensor:
    """Visual tokens to keep in every layer of the batch that begins at sample ``first``; shape (layers, batch)."""
    if table.dim() == 1:
        return keep_counts(table, start.counts, start.floor)
    rows = table[first : first + len(start.counts)]
    each = [keep_counts(*sample) for sample in zip(rows, start.counts, start.floor, strict=True)]
    return torch.stack(each, dim=1)


def _digest(tables: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for table in tables:
        digest.update(f"{tuple(table.shape)}\n".encode() + table.numpy().tobytes())
    return digest.hexdigest()

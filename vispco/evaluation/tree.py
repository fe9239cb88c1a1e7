"""Many schedules on one batch: layers of common beginnings run once, and equal counts run side by side.

Schedules that begin alike are the branches of a tree. Branches of one depth that keep the same counts in every sample
run as one batch, whatever they kept before: nothing has to be padded, and few samples still fill a device. The tree is
walked in parts, so that no more than :data:`ROOM` tokens wait at any depth.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vispco.engine import Captured, Replay
from vispco.engine.prefill import Prefill

ROOM = 8192
"""Tokens that run in one batch and that wait at one depth; one branch may be more by itself."""
SEQUENCES = 8 * ROOM
"""Tokens of a batch before any were dropped: masks are gathered from those of whole sequences."""

Counts = tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Branches that have run up to some layer as one batch.

    Attributes
    ----------
    state : Prefill
    hidden : Tensor, shape (branches * samples, tokens, width)
    members : list of list of int
        Schedules of every branch.
    """

    state: Prefill
    hidden: Tensor
    members: list[list[int]]


class Tree:
    """The schedules of one batch of samples.

    Parameters
    ----------
    replay : Replay
    captured : Captured
    rows : Tensor, shape (samples, answers)
        Slots whose logits are wanted.
    counts : sequence of Tensor, shape (layers, samples)
        Visual tokens that every schedule keeps.
    charge : callable
        Called with the counts of a layer, shape (samples,), and the number of branches in which it ran with them.
    """

    def __init__(
        self,
        replay: Replay,
        captured: Captured,
        rows: Tensor,
        counts: Sequence[Tensor],
        charge: Callable[[Tensor, int], None],
    ):
        self.replay, self.captured, self.rows, self.charge = replay, captured, rows, charge
        self.counts = [[tuple(layer) for layer in table.tolist()] for table in counts]
        self.every = torch.arange(len(rows))
        self.text = captured.real.sum(dim=1).cpu() - captured.visual_tokens.cpu()
        # Only arguments of layers are taken from the copies; what is large beside them stays single.
        self._lean = replace(captured, hidden=captured.hidden[:, :0], added=(), pictured={})
        self._copies: dict[int, Captured] = {}

    def logits(self) -> Iterator[tuple[int, Tensor]]:
        """The number of every schedule with its logits (samples, answers, vocabulary), in any order."""
        start = self.replay.start(self.captured)
        yield from self._descend(0, [Group(start, self.captured.hidden, [list(range(len(self.counts)))])])

    def _descend(self, layer: int, groups: list[Group]) -> Iterator[tuple[int, Tensor]]:
        if layer == self.replay.layers:
            for group in groups:
                logits = self.replay.logits(group.hidden, group.state, self.rows.repeat(len(group.members), 1))
                for part, members in zip(logits.split(len(self.rows)), group.members, strict=True):
                    yield from ((index, part) for index in members)
            return
        waiting: list[Group] = []
        tokens = 0
        for kept, branches in self._branches(layer, groups):
            size = self._tokens(kept) * len(branches)
            if waiting and tokens + size > ROOM:
                yield from self._descend(layer + 1, waiting)
                waiting, tokens = [], 0
            waiting.append(self._run(layer, groups, kept, branches))
            tokens += size
        yield from self._descend(layer + 1, waiting)

    def _branches(
        self, layer: int, groups: list[Group]
    ) -> Iterator[tuple[Counts, dict[tuple[int, int], list[int]]]]:
        """Branches that keep the same, as many as may run at once: schedules by group and place in it."""
        found: dict[Counts, dict[tuple[int, int], list[int]]] = {}
        for number, group in enumerate(groups):
            for place, members in enumerate(group.members):
                for index in members:
                    found.setdefault(self.counts[index][layer], {}).setdefault((number, place), []).append(index)
        for kept, branches in found.items():
            most = max(1, min(ROOM // self._tokens(kept), SEQUENCES // max(1, self.captured.real.numel())))
            places = list(branches)
            for start in range(0, len(places), most):
                yield kept, {place: branches[place] for place in places[start : start + most]}

    def _tokens(self, kept: Counts) -> int:
        """Tokens of one branch, padding included."""
        return max(1, len(kept) * int((self.text + torch.tensor(kept)).max()))

    def _run(
        self, layer: int, groups: list[Group], kept: Counts, branches: dict[tuple[int, int], list[int]]
    ) -> Group:
        """Run one layer for branches that keep the same: each group's are cut by themselves, and then put together."""
        counts, states, inputs = torch.tensor(kept), [], []
        for number, group in enumerate(groups):
            places = [place for which, place in branches if which == number]
            if not places:
                continue
            state, hidden = group.state, group.hidden
            if len(places) < len(group.members):
                index = (torch.tensor(places)[:, None] * len(self.every) + self.every).flatten()
                state, hidden = state.select(index), hidden[index.to(hidden.device)]
            arguments = self._copied(len(places)).arguments[layer]
            state, hidden = state.enter(layer, counts.repeat(len(places)), hidden, arguments)
            states.append(state)
            inputs.append(hidden)
        state, hidden = (states[0].join(states[1:]), torch.cat(inputs)) if len(states) > 1 else (states[0], inputs[0])
        members = list(branches.values())
        following = {after for each in members for index in each for after in self.counts[index][layer + 1 : layer + 2]}
        state.watch = any(less < now for after in following for less, now in zip(after, kept, strict=True))
        hidden = self.replay.layer(layer, hidden, state, self._copied(len(members)))
        self.charge(counts, len(members))
        return Group(state, hidden, members)

    def _copied(self, number: int) -> Captured:
        """The samples ``number`` times."""
        if number == 1:
            return self.captured
        if number not in self._copies:
            self._copies[number] = self._lean.select(self.every.repeat(number))
        return self._copies[number]

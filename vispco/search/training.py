"""The variables of a training, to be put down after a step and taken up again bit by bit."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, field

import numpy as np
import torch
from torch import nn

from vispco.evaluation import Ledger
from vispco.search.lagrangian import AugmentedLagrangian
from vispco.state import Snapshot


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows after a gradient step; means over all schedules."""

    step: int
    loss: float
    violation: float
    multiplier: float


@dataclass
class Training:
    """All that changes from step to step.

    Attributes
    ----------
    learned : nn.Module
    optimizer : torch.optim.Optimizer
    lagrangian : AugmentedLagrangian
    random : numpy.random.Generator
        Draws the samples.
    ledger : Ledger
    report : callable or None
        Called with every step, also with those that were taken up.
    history : list of Progress
        Steps that were made.
    """

    learned: nn.Module
    optimizer: torch.optim.Optimizer
    lagrangian: AugmentedLagrangian
    random: np.random.Generator
    ledger: Ledger
    report: Callable[[Progress], None] | None = None
    history: list[Progress] = field(default_factory=list)

    def add(self, progress: Progress) -> None:
        """A step was made."""
        self.history.append(progress)
        if self.report:
            self.report(progress)

    def snapshot(self) -> Snapshot:
        """All of it after the steps of the history; random numbers of PyTorch's own generator as well."""
        tensors = {f"learned.{name}": tensor for name, tensor in self.learned.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        tensors |= {f"lagrangian.{name}": tensor for name, tensor in self.lagrangian.state_dict().items()}
        tensors["random"] = torch.get_rng_state()
        values = {
            "random": self.random.bit_generator.state,
            "forwards": self.ledger.forwards,
            "history": [astuple(progress) for progress in self.history],
        }
        return Snapshot(len(self.history), tensors, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of the same training."""
        parts: dict[str, dict[str, torch.Tensor]] = {"learned": {}, "optimizer": {}, "lagrangian": {}}
        for name, tensor in snapshot.tensors.items():
            part, _, own = name.partition(".")
            if own:
                parts[part][own] = tensor
        self.learned.load_state_dict(parts["learned"])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, own = name.partition(".")
            moments.setdefault(int(index), {})[own] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.lagrangian.load_state_dict(parts["lagrangian"])
        torch.set_rng_state(snapshot.tensors["random"])
        self.random.bit_generator.state = snapshot.values["random"]
        self.ledger.forwards = snapshot.values["forwards"]
        for progress in snapshot.values["history"]:
            self.add(Progress(*progress))

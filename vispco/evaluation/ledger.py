"""What a search has spent, in forwards of the unpruned model over one sample."""

from dataclasses import dataclass


@dataclass
class Ledger:
    """Model FLOPs spent, as multiples of one sample's unpruned prefill.

    A backward pass through the frozen model (activations only) counts as much as its forward.
    """

    forwards: float = 0.0

    def add_forwards(self, number: float) -> None:
        """Charge forwards of the unpruned model; a layer is its share of one."""
        self.forwards += number

"""What is put on a model for the time of a ``with`` block, and how a copy of the model gets rid of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vispco.engine import refusals
from vispco.errors import ModelError


class Hook:
    """A module hook that is inert in copies of the model: they may outlive the block, and nobody would remove it.

    Parameters
    ----------
    function : callable
        Called with ``leading``, then with what the module passes to its hooks.
    leading
        Its first arguments.
    """

    def __init__(self, function: Callable[..., Any], *leading: Any):
        self.function, self.leading = function, leading

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *call: Any) -> Any:
        """Run the hook; never traced, as what it decides depends on data."""
        return self.function(*self.leading, *call)

    def __reduce__(self) -> tuple[type["Hook"], tuple[Callable[..., None]]]:
        """What a copied or pickled module gets in its place."""
        return Hook, (no_hook,)


def no_hook(*call: Any) -> None:
    """The hook of a copy."""


class Generate:
    """``generate`` of a model while it is pruned: refuses chunked prefill, and knows that its forwards belong together.

    Attributes
    ----------
    running : bool
        Whether a call is under way.
    previous : tuple or None
        What the last forward of the call without a cache left for the next one, which repeats it with a token more.
    """

    def __init__(self, model: Any):
        self.model, self.stock = model, model.generate
        self.running = False
        self.previous: Any = None

    def __call__(self, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """Generate as ever.

        Raises
        ------
        ModelError
            If the prompt would come in pieces.
        """
        config = generation_config or self.model.generation_config
        size = kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        if size is not None:
            raise ModelError(f"prefill_chunk_size = {size} {refusals.CHUNKS}; leave it None")
        self.running = True
        try:
            return self.stock(inputs, generation_config, **kwargs)
        finally:
            self.running, self.previous = False, None

    def __reduce__(self) -> Any:
        """What a copied or pickled model gets in its place: it has no such attribute yet, so its class's method."""
        return getattr, (self.model, "generate")


@contextmanager
def watched_generate(model: Any) -> Iterator[Generate]:
    """Watch over ``model.generate``: single forwards do not show that they are pieces of one text."""
    own = vars(model).get("generate")
    model.generate = Generate(model)
    try:
        yield model.generate
    finally:
        del model.generate
        if own is not None:
            model.generate = own

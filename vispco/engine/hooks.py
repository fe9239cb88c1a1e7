"""What is put on a model for the time of a ``with`` block, and how a copy of the model gets rid of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

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


class _Generate:
    """``generate`` of a model, without chunked prefill."""

    def __init__(self, model: Any):
        self.model, self.stock = model, model.generate

    def __call__(self, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:
        config = generation_config or self.model.generation_config
        size = kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        if size is not None:
            raise ModelError(
                f"prefill_chunk_size = {size} shows a selector one piece of the prompt at a time, so that it cannot "
                "choose among all visual tokens; leave it None"
            )
        return self.stock(inputs, generation_config, **kwargs)

    def __reduce__(self) -> Any:
        """What a copied or pickled model gets in its place: it has no such attribute yet, so its class's method."""
        return getattr, (self.model, "generate")


@contextmanager
def refuse_chunked_prefill(model: Any) -> Iterator[None]:
    """Watch over ``model.generate``: its forwards do not show that they are pieces of one prompt."""
    own = vars(model).get("generate")
    model.generate = _Generate(model)
    try:
        yield
    finally:
        del model.generate
        if own is not None:
            model.generate = own

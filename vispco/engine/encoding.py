"""What a model is told of its images, where it encodes them.

That is in its forward or, in newer releases, before the first forward of ``generate``, which then gets features in
place of pixels and of all that describes them.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

Encoded = Callable[[str, dict[str, Any], int], None]
"""Told of every call: its modality, its arguments by name, and how many visual tokens came out."""


class Encoder:
    """A model's ``get_image_features`` or ``get_video_features`` while it is followed.

    Parameters
    ----------
    base : Module
    modality : {"image", "video"}
    begins : callable
        Called before, with the modality.
    ends : callable
        Called after; see :data:`Encoded`.
    running : list of str
        Modalities that are being encoded, shared by a model's encoders: one that another one calls is not followed.
    """

    def __init__(self, base: Any, modality: str, begins: Callable[[str], None], ends: Encoded, running: list[str]):
        self.base, self.modality, self.begins, self.ends, self.running = base, modality, begins, ends, running
        self.name = f"get_{modality}_features"
        # `generate` asks for the signature, which Python takes from here.
        self.__wrapped__ = getattr(base, self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Encode as ever."""
        if self.running:
            return self.__wrapped__(*args, **kwargs)
        self.begins(self.modality)
        self.running.append(self.modality)
        try:
            output = self.__wrapped__(*args, **kwargs)
        finally:
            self.running.pop()
        parts = getattr(output, "pooler_output", None)
        tokens = 0 if parts is None else sum(part.numel() // part.shape[-1] for part in parts)
        self.ends(self.modality, inspect.signature(self.__wrapped__).bind(*args, **kwargs).arguments, tokens)
        return output

    def __reduce__(self) -> Any:
        """What a copied or pickled model gets in its place: it has no such attribute yet, so its class's method."""
        return getattr, (self.base, self.name)


def watch_encoders(base: Any, stack: ExitStack, begins: Callable[[str], None], ends: Encoded) -> None:
    """Follow a model's encoders until ``stack`` closes."""
    running: list[str] = []
    for modality in ("image", "video"):
        name = f"get_{modality}_features"
        if hasattr(base, name):
            own = vars(base).get(name)
            setattr(base, name, Encoder(base, modality, begins, ends, running))
            if own is not None:  # runs after the next one
                stack.callback(setattr, base, name, own)
            stack.callback(delattr, base, name)

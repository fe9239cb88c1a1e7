"""What the engine has to know of a model, and how an adapter tells it."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache

from vispco.engine import compat
from vispco.errors import ModelError

ANY_BACKEND = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4")
"""Attention backends under which a model with full attention can be pruned."""

MASKED = ("sdpa", "eager")
"""Backends that take masks over pairs of tokens: image blocks that see both ways, or sliding windows over slots."""


@dataclass(frozen=True)
class Family:
    """Where a vision-language model keeps what the engine hooks.

    Attributes
    ----------
    model : PreTrainedModel
        The model with the language-model head, without wrappers around it.
    base : Module
        The module whose forward receives ``input_ids``.
    decoder : Module
        The language model inside it; called with ``inputs_embeds``.
    layers : ModuleList
        The decoder layers.
    norm : Module
        Final norm of the decoder.
    lm_head : Module
        From hidden states to logits.
    visual_ids : tuple of int
        Token ids that stand for one visual token each.
    windows : tuple of int or None, one per layer
        Sliding windows; None for full attention.
    backends : tuple of str
        Attention backends under which it can be pruned.
    logit_cap : float or None
        Bound of the logits, ``cap * tanh(logits / cap)``.
    """

    model: Any
    base: nn.Module
    decoder: nn.Module
    layers: nn.ModuleList
    norm: nn.Module
    lm_head: nn.Module
    visual_ids: tuple[int, ...]
    windows: tuple[int | None, ...]
    backends: tuple[str, ...]
    logit_cap: float | None

    def visual_mask(self, input_ids: Tensor) -> Tensor:
        """Where visual tokens stand; bool, shape of ``input_ids``."""
        mask = input_ids == self.visual_ids[0]
        for token in self.visual_ids[1:]:
            mask = mask | (input_ids == token)
        return mask

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the last layer's output; shape (..., vocabulary)."""
        logits: Tensor = self.lm_head(self.norm(hidden))
        return logits if self.logit_cap is None else self.logit_cap * (logits / self.logit_cap).tanh()


@dataclass(frozen=True)
class Adapter:
    """One supported architecture.

    Attributes
    ----------
    title : str
        The name people use.
    architecture : str
        Its class in transformers.
    tokens : tuple of str
        Fields of the configuration that hold the ids of visual tokens.
    backends : tuple of str
    note : str
        What is special about it.
    """

    title: str
    architecture: str
    tokens: tuple[str, ...] = ("image_token_id",)
    backends: tuple[str, ...] = ANY_BACKEND
    note: str = ""

    @property
    def videos(self) -> bool:
        """Whether the model has tokens for videos."""
        return "video_token_id" in self.tokens

    def describe(self, model: Any) -> Family:
        """Find the parts of a model.

        Raises
        ------
        ModelError
            If its decoder has layers that cannot be pruned.
        """
        decoder = model.get_decoder()
        windows = _windows(decoder.config)
        deepstack = len(getattr(model.config.vision_config, "deepstack_visual_indexes", None) or ())
        if deepstack >= len(decoder.layers):
            raise ModelError(
                f"a decoder of {len(decoder.layers)} layers ends where the vision tower still adds to it "
                f"({deepstack} DeepStack layers); use a deeper one"
            )
        sliding = any(window is not None for window in windows)
        return Family(
            model=model,
            base=model.base_model,
            decoder=decoder,
            layers=decoder.layers,
            norm=decoder.norm,
            lm_head=model.get_output_embeddings(),
            visual_ids=tuple(getattr(model.config, name) for name in self.tokens),
            windows=windows,
            backends=tuple(name for name in self.backends if name in MASKED) if sliding else self.backends,
            logit_cap=compat.logit_cap(model, decoder.config),
        )


def _windows(text: Any) -> tuple[int | None, ...]:
    """Sliding windows as transformers' own cache would have them."""
    unknown = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if unknown:
        raise ModelError(
            f"decoder layers of type {', '.join(sorted(unknown))} are neither full nor sliding attention, so that "
            "dropping tokens would not equal masking them; use a model with full or sliding attention only"
        )
    return tuple(getattr(layer, "sliding_window", None) for layer in DynamicCache(config=text).layers)

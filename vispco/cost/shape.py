"""Sizes of a decoder that its costs depend on."""

from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor
from transformers import DynamicCache

from vispco.errors import ModelError

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder that its cost depends on."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> "DecoderShape":
        """Read the sizes from a Hugging Face configuration (of the whole model or of its text part).

        Raises
        ------
        ModelError
            If a size is missing.
        """
        text = config.get_text_config()
        try:
            return cls(
                layers=text.num_hidden_layers,
                hidden=text.hidden_size,
                heads=text.num_attention_heads,
                kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
                head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
                mlp=text.intermediate_size,
                vocabulary=text.vocab_size,
            )
        except AttributeError as error:
            raise ModelError(f"model type {config.model_type!r} gives no decoder sizes ({error})") from None

    def projections(self, tokens: Number) -> Number:
        """Query, key, value and output projections of one layer."""
        return 2.0 * self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads) * tokens

    def attention(self, tokens: Number) -> Number:
        """Attention scores and weighted values of one layer."""
        return 4.0 * self.heads * self.head_dim * tokens * tokens

    def mlp_cost(self, tokens: Number) -> Number:
        """The gated MLP of one layer."""
        return 6.0 * self.hidden * self.mlp * tokens

    def layer(self, tokens: Number) -> Number:
        """One layer in which ``tokens`` tokens (text and visual) run."""
        return self.projections(tokens) + self.attention(tokens) + self.mlp_cost(tokens)

    @property
    def kv_numbers(self) -> int:
        """Numbers that one layer's cache holds per token: a key and a value."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def lm_head(self) -> float:
        """Logits of one position."""
        return 2.0 * self.hidden * self.vocabulary


def sliding_windows(config: Any) -> tuple[int | None, ...]:
    """Sliding window of every decoder layer as transformers' own cache has it; None for full attention.

    Raises
    ------
    ModelError
        If a layer's attention is neither full nor sliding.
    """
    text = config.get_text_config()
    unknown = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if unknown:
        raise ModelError(
            f"decoder layers of type {', '.join(sorted(unknown))} are neither full nor sliding attention, so that "
            "dropping tokens would not equal masking them; use a model with full or sliding attention only"
        )
    return tuple(getattr(layer, "sliding_window", None) for layer in DynamicCache(config=text).layers)

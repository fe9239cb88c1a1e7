"""What a caller passed to the model, as far as pruning needs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vispco.engine import refusals
from vispco.engine.families import Family
from vispco.engine.families.base import Pictures
from vispco.engine.prefill import last_real
from vispco.errors import ModelError

TOLD = (
    "input_ids",
    "attention_mask",
    "image_sizes",
    "batch_num_images",
    "image_grid_thw",
    "video_grid_thw",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)
"""Inputs that describe images and videos."""

IGNORED = -100
"""Label of a target that the loss leaves out."""


@dataclass(frozen=True)
class Prompt:
    """Arguments of one call of the model.

    Attributes
    ----------
    input_ids : Tensor, shape (batch, sequence), or None
    mask : Tensor, shape (batch, sequence), or None
        Padding mask.
    visual_features : bool
        Whether pixels, or what an encoder made of them, come with the call.
    pictures : dict
        What it says of images beside their pixels.
    """

    input_ids: Tensor | None = None
    mask: Any = None
    visual_features: bool = False
    pictures: Pictures = field(default_factory=dict)

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Prompt":
        """Read the arguments of the base model's forward.

        Raises
        ------
        ModelError
            If several sequences are packed into one.
        """
        if any(name.startswith("cu_seq") and value is not None for name, value in kwargs.items()):
            raise ModelError(f"packed sequences (cu_seq_lens) cannot be pruned: {refusals.PACKED}")
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        # M-RoPE positions repeat within an image; transformers looks for packed sequences in plain ones only.
        if mask is None and positions is not None and positions.dim() == 2 and bool((positions.diff(dim=1) != 1).any()):
            raise ModelError(
                "position_ids that start again without an attention_mask mean packed sequences, which cannot be "
                f"pruned: {refusals.PACKED}"
            )
        pixels = any(name.startswith("pixel_values") and value is not None for name, value in kwargs.items())
        encoded = any(value is not None for value in (kwargs.get("mm_encoder_outputs") or {}).values())
        ids = kwargs.get("input_ids", args[0] if args else None)
        return cls(ids, mask, pixels or encoded, told_of_pictures({**kwargs, "input_ids": ids}))

    def tokens(self, family: Family) -> tuple[Tensor, Tensor]:
        """Visual tokens, and tokens that are not padding; bool, both of shape (batch, sequence).

        Raises
        ------
        ModelError
            If there are no token ids to find visual tokens by, or the mask is not the tokenizer's.
        """
        if self.input_ids is None:
            raise ModelError("a prefill without input_ids has no visual tokens to find; pass input_ids")
        visual = family.visual_mask(self.input_ids)
        if self.mask is None:
            return visual, torch.ones_like(visual)
        if not isinstance(self.mask, Tensor) or self.mask.dim() != 2:
            given = f"{self.mask.dim()} dimensions" if isinstance(self.mask, Tensor) else "no tensor"
            raise ModelError(f"attention_mask has {given}; pass the tokenizer's mask (batch, sequence)")
        real = self.mask.bool()
        return visual & real, real


def told_of_pictures(inputs: Mapping[str, Any]) -> Pictures:
    """Those of a model's inputs that describe its images and videos and where they stand, pixels left out."""
    return {name: inputs[name] for name in TOLD if inputs.get(name) is not None}


def prompt_end(real: Tensor, visual: Tensor, labels: Tensor | None) -> Tensor:
    """Slot of the last prompt token, shape (batch,): the one before the first target, or the last token without any.

    An answer that is there for training must not choose the tokens that it is predicted from. Targets that begin among
    or before the visual tokens are no answer to a prompt.
    """
    end = last_real(real)
    if labels is None:
        return end
    targets = real & (labels.to(real.device) != IGNORED)
    places = torch.arange(real.shape[1], device=real.device)
    first = torch.where(targets, places, real.shape[1]).amin(dim=1)
    last_visual = torch.where(visual, places, -1).amax(dim=1)
    return torch.where((first <= end) & (first - 1 > last_visual), first - 1, end)


def take_deepstack(kwargs: dict[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
    """Take from a decoder's arguments what it would add to the output of its first layers, at the full length.

    Returns
    -------
    dict
        The arguments without it.
    list of Tensor, one per layer, shape (batch, sequence, width)
        Zeros but for the visual tokens.
    """
    mask, features = kwargs.get("visual_pos_masks"), kwargs.get("deepstack_visual_embeds")
    if mask is None or features is None:
        return kwargs, []
    added = []
    for feature in features:
        full = feature.new_zeros(*mask.shape, feature.shape[-1])
        full[mask.to(full.device)] = feature
        added.append(full)
    return {**kwargs, "visual_pos_masks": None, "deepstack_visual_embeds": None}, added

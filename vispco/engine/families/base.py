"""What the engine has to know of a model."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Family:
    """Where a vision-language model keeps what the engine hooks.

    Attributes
    ----------
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
    """

    base: nn.Module
    decoder: nn.Module
    layers: nn.ModuleList
    norm: nn.Module
    lm_head: nn.Module
    visual_ids: tuple[int, ...]

    def visual_mask(self, input_ids: Tensor) -> Tensor:
        """Where visual tokens stand; bool, shape of ``input_ids``."""
        mask = input_ids == self.visual_ids[0]
        for token in self.visual_ids[1:]:
            mask = mask | (input_ids == token)
        return mask

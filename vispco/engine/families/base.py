"""What the engine has to know of a model, and how an adapter tells it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vispco.cost import sliding_windows
from vispco.engine import compat
from vispco.errors import ModelError

ANY_BACKEND = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4")
"""Attention backends under which a model with full attention can be pruned."""

MASKED = ("sdpa", "eager")
"""Backends that take masks over pairs of tokens: image blocks that see both ways, or sliding windows over slots."""


Pictures = Mapping[str, Any]
"""What a model is told of its images beside their pixels: ``image_sizes``, ``image_grid_thw`` and the like, and the
``input_ids`` and ``attention_mask`` that their tokens stand in."""


@dataclass(frozen=True)
class Tower:
    """How a family's vision tower becomes visual tokens, for selectors that look at its attention.

    Attributes
    ----------
    pack : callable
        From the family, values of all patches (pictures, patches, width) and :data:`Pictures` to values of all visual
        tokens (tokens, width), in the order of the prompt. Patches that become one token are averaged.
    path : str
        Attribute of the base model.
    """

    pack: Callable[["Family", Tensor, Pictures], Tensor]
    path: str = "vision_tower"

    def module(self, family: "Family") -> nn.Module:
        """The tower."""
        return family.base.get_submodule(self.path)

    def layers(self, family: "Family") -> nn.ModuleList:
        """Its encoder layers."""
        return next(module for module in self.module(family).modules() if isinstance(module, nn.ModuleList))

    def feature_layer(self, family: "Family", number: int) -> int:
        """The layer, of ``number``, whose output is projected; the last one of several."""
        chosen = getattr(family.model.config, "vision_feature_layer", -1)
        last: int = chosen if isinstance(chosen, int) else chosen[-1]
        # Hidden states are counted with the embeddings before them: entry 1 is the output of layer 0.
        layer = number + last if last < 0 else last - 1
        if layer < 0:
            raise ModelError(f"vision_feature_layer = {chosen} is no layer's output, so that it has no attention")
        return layer

    def skipped(self, family: "Family") -> int:
        """Patches at the beginning of a picture that become no visual token: a class token, if there is one."""
        return int(getattr(family.model.config, "vision_feature_select_strategy", "full") == "default")


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
    tower : Tower or None
        None if its patches are not matched to visual tokens.
    layout : callable or None
        From the family and :data:`Pictures` to row, column and tile of every visual token, int64, shape (tokens, 3), in
        the order of the prompt. Tiles stand in one mosaic below the whole picture. Rows count on from picture to
        picture, so that pictures without text between them stand below each other; :class:`vispco.engine.tower.Watch`
        lets them begin anew after text. None if images are squares with text between them.
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
    tower: Tower | None
    layout: Callable[["Family", Pictures], Tensor] | None

    def visual_mask(self, input_ids: Tensor) -> Tensor:
        """Where visual tokens stand; bool, shape of ``input_ids``."""
        mask = input_ids == self.visual_ids[0]
        for token in self.visual_ids[1:]:
            mask = mask | (input_ids == token)
        return mask

    def visual_tokens(self, pictures: Pictures) -> tuple[Tensor, Tensor]:
        """Ids of the visual tokens of a batch in the order of the prompt, and the run that each of them is in.

        Parameters
        ----------
        pictures : Pictures

        Returns
        -------
        Tensor, shape (tokens,), int64
        Tensor, shape (tokens,), int64
            A run ends where another token stands, and with the sample; counted from 0.
        """
        ids, mask = pictures["input_ids"], pictures.get("attention_mask")
        visual = self.visual_mask(ids)
        if mask is not None:
            visual = visual & mask.to(visual.device).bool()
        begins = visual & ~nn.functional.pad(visual[:, :-1], (1, 0))
        return ids[visual], begins.flatten().cumsum(dim=0)[visual.flatten()] - 1

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
    tower, layout
        As of :class:`Family`.
    """

    title: str
    architecture: str
    tokens: tuple[str, ...] = ("image_token_id",)
    backends: tuple[str, ...] = ANY_BACKEND
    note: str = ""
    tower: Tower | None = None
    layout: Callable[[Family, Pictures], Tensor] | None = None

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
        windows = sliding_windows(decoder.config)
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
            tower=self.tower,
            layout=self.layout,
        )

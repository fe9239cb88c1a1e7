"""LLaVA 1.5 (``LlavaForConditionalGeneration``): a vision tower, a projector and a Llama-like decoder."""

from typing import Any

from vispco.engine.families.base import Family
from vispco.errors import ModelError


def describe_llava(model: Any) -> Family:
    """Adapter; refuses decoders with layers other than full attention, which are not tested."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(text, "sliding_window", None):
        raise ModelError(f"LLaVA with a {text.model_type!r} decoder is not supported; use one with full attention only")
    decoder = model.get_decoder()
    return Family(
        base=model.base_model,
        decoder=decoder,
        layers=decoder.layers,
        norm=decoder.norm,
        lm_head=model.get_output_embeddings(),
        visual_ids=(model.config.image_token_id,),
    )

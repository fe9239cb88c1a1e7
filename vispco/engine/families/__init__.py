"""Model families: the little that differs between vision-language models, one small adapter each."""

from typing import Any

from vispco.engine.families.base import Adapter, Family
from vispco.engine.families.gemma3 import GEMMA3
from vispco.engine.families.idefics3 import IDEFICS3
from vispco.engine.families.internvl import INTERNVL
from vispco.engine.families.llava import LLAVA
from vispco.engine.families.llava_next import LLAVA_NEXT
from vispco.engine.families.llava_onevision import LLAVA_ONEVISION
from vispco.engine.families.paligemma import PALIGEMMA
from vispco.engine.families.qwen2_5_vl import QWEN2_5_VL
from vispco.engine.families.qwen2_vl import QWEN2_VL
from vispco.engine.families.qwen3_vl import QWEN3_VL
from vispco.engine.families.smolvlm import SMOLVLM
from vispco.engine.families.video_llava import VIDEO_LLAVA
from vispco.errors import ModelError

REGISTRY: dict[str, Adapter] = {
    "llava": LLAVA,
    "llava_next": LLAVA_NEXT,
    "llava_onevision": LLAVA_ONEVISION,
    "video_llava": VIDEO_LLAVA,
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_5_VL,
    "qwen3_vl": QWEN3_VL,
    "gemma3": GEMMA3,
    "internvl": INTERNVL,
    "paligemma": PALIGEMMA,
    "idefics3": IDEFICS3,
    "smolvlm": SMOLVLM,
}
"""Adapters by the ``model_type`` of the Hugging Face configuration."""

_HYBRID = "its linear-attention layers carry a state over all tokens, so that dropping some does not equal masking them"
_SHARED = "its layers get a second input per token and share keys and values, which the engine does not follow"

REFUSED: dict[str, str] = {
    "mllama": "it reads images by cross-attention; there are no visual tokens in its sequence to drop",
    "qwen3_5": _HYBRID,
    "qwen3_5_moe": _HYBRID,
    "gemma3n": _SHARED,
    "gemma4": _SHARED,
    "llama4": "its chunked attention and complex rotary tables are not followed by the engine",
}
"""Why a well-known architecture is not supported, by ``model_type``."""


def check_supported(kind: str) -> Adapter:
    """The adapter of a ``model_type``.

    Raises
    ------
    ModelError
        With the reason where one is known, and the list of supported types.
    """
    if kind not in REGISTRY:
        reason = f": {REFUSED[kind]}" if kind in REFUSED else ""
        raise ModelError(f"model type {kind!r} is not supported{reason}; supported types: {', '.join(REGISTRY)}")
    return REGISTRY[kind]


def describe(model: Any) -> Family:
    """The family of a loaded model, under wrappers like PEFT's if there are any.

    Raises
    ------
    ModelError
        If no adapter knows the model's type, or its decoder cannot be pruned.
    """
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    if not hasattr(model, "config"):
        raise ModelError(
            f"{type(model).__name__} is no model of transformers; pass the model itself (of a DataParallel or "
            "DistributedDataParallel wrapper, its .module)"
        )
    adapter = check_supported(model.config.model_type)
    if adapter.architecture not in {kind.__name__ for kind in type(model).__mro__}:
        raise ModelError(
            f"{type(model).__name__} cannot be pruned as a whole; pass the {adapter.architecture} itself (decoder "
            "layers may be compiled one by one)"
        )
    return adapter.describe(model)


__all__ = ["REFUSED", "REGISTRY", "Adapter", "Family", "check_supported", "describe"]

"""LLaVA 1.5: a CLIP tower, a projector and a Llama-like decoder."""

from vispco.engine.families.base import Adapter

LLAVA = Adapter("LLaVA-1.5", "LlavaForConditionalGeneration")

"""SmolVLM: Idefics3 made small; frames of a video are images."""

from vispco.engine.families.base import Adapter

SMOLVLM = Adapter("SmolVLM", "SmolVLMForConditionalGeneration", note="every tile keeps a token; frames are images")

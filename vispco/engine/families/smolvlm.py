"""SmolVLM: Idefics3 made small; frames of a video are images."""

from vispco.engine.families.base import Adapter, Tower
from vispco.engine.families.idefics3 import shuffled_patches

SMOLVLM = Adapter(
    "SmolVLM",
    "SmolVLMForConditionalGeneration",
    note="every tile keeps a token; frames are images",
    tower=Tower(shuffled_patches, path="vision_model"),
)

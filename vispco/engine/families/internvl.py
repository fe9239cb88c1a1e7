"""InternVL (the converted checkpoints, ``-hf``): an InternViT tower and a Qwen2 decoder."""

from vispco.engine.families.base import Adapter

INTERNVL = Adapter("InternVL", "InternVLForConditionalGeneration", note="frames are images")

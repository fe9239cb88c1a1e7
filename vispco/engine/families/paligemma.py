"""PaliGemma and PaliGemma 2: the whole prompt sees both ways, which flash attention cannot express.

PaliGemma 2 bounds attention logits, so transformers runs it with eager attention only, and has sliding windows. Images
of a prompt follow each other without text between them.
"""

from vispco.engine.families.base import MASKED, Adapter, Tower
from vispco.engine.families.layouts import square_images
from vispco.engine.families.llava import every_patch

PALIGEMMA = Adapter(
    "PaliGemma 1 and 2",
    "PaliGemmaForConditionalGeneration",
    backends=MASKED,
    note="the prompt sees both ways; version 2 needs eager attention",
    tower=Tower(every_patch),
    layout=square_images,
)

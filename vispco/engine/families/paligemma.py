"""PaliGemma and PaliGemma 2: the whole prompt sees both ways, which flash attention cannot express.

PaliGemma 2 bounds attention logits, so transformers runs it with eager attention only, and has sliding windows.
"""

from vispco.engine.families.base import MASKED, Adapter

PALIGEMMA = Adapter(
    "PaliGemma 1 and 2",
    "PaliGemmaForConditionalGeneration",
    backends=MASKED,
    note="the prompt sees both ways; version 2 needs eager attention",
)

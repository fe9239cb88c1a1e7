"""Gemma 3: tokens of an image see each other both ways, and most layers look back through a sliding window only.

Both live in masks over pairs of tokens, which flash attention does not take.
"""

from vispco.engine.families.base import MASKED, Adapter

GEMMA3 = Adapter(
    "Gemma 3",
    "Gemma3ForConditionalGeneration",
    backends=MASKED,
    note="image blocks see both ways; windows count the original tokens",
)

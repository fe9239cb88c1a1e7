"""Idefics3: tiles of one image stand apart in the text, so each of them keeps a token as an image does."""

from vispco.engine.families.base import Adapter

IDEFICS3 = Adapter("Idefics3", "Idefics3ForConditionalGeneration", note="every tile keeps a token")

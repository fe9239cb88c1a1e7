"""How many visual tokens pictures have in the language model, and how many patches the vision tower made them of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vispco.data import Sample
from vispco.engine.families import describe
from vispco.evaluation.prompts import encode_samples
from vispco.schedule import keep_counts


@dataclass(frozen=True)
class VisualSize:
    """A picture in the model: tokens that enter the decoder, and patches of the tower, of which several may merge."""

    tokens: int
    patches: int


def visual_sizes(model: Any, processor: Any, samples: Sequence[Sample]) -> list[VisualSize]:
    """Sizes of the samples' pictures, without running the model.

    They depend on a picture's width and height alone, so one picture of every format is processed.
    """
    family = describe(model)
    known: dict[tuple[int, int], VisualSize] = {}
    formats = [sample.image.size for sample in samples]
    for size, sample in zip(formats, samples, strict=True):
        if size not in known:
            inputs = encode_samples(processor, [sample])
            known[size] = VisualSize(int(family.visual_mask(inputs["input_ids"]).sum()), patches_of(model, inputs))
    return [known[size] for size in formats]


def patches_of(model: Any, inputs: Mapping[str, Any]) -> int:
    """Patches that the vision tower sees in the pictures of one prompt, class tokens left out."""
    grid = inputs.get("image_grid_thw")
    if grid is not None:
        return int(grid.prod(dim=1).sum())
    pixels = next(value for name, value in inputs.items() if name.startswith("pixel_values"))
    patch = model.config.vision_config.patch_size
    height, width = (patch, patch) if isinstance(patch, int) else patch
    *pictures, _, rows, columns = pixels.shape
    return int(math.prod(pictures) * (rows // height) * (columns // width))


def kept_share(keep: Sequence[float], sizes: Sequence[VisualSize]) -> float:
    """Visual tokens that run, over all layers and samples, as a fraction of the unpruned model's.

    Parameters
    ----------
    keep : sequence of float, length layers
    sizes : sequence of VisualSize
    """
    tokens = torch.tensor([size.tokens for size in sizes])
    counts = keep_counts(keep, tokens)
    return float(counts.sum()) / (len(keep) * float(tokens.sum()))

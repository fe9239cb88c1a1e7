"""Where visual tokens are in their images: what the families' layouts are made of."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vispco.engine.families.base import Family, Pictures
from vispco.errors import ModelError


def rectangle(height: int, width: int) -> Tensor:
    """Row, column and tile 0 of a picture's tokens, row by row; int64, shape (height * width, 3)."""
    places = torch.arange(height * width)
    return torch.stack([places // width, places % width, torch.zeros_like(places)], dim=-1)


def below_each_other(pictures: Sequence[Tensor]) -> Tensor:
    """The pictures' tokens in one column of pictures: rows count on; shape (tokens, 3)."""
    shifted, row = [torch.zeros(0, 3, dtype=torch.int64)], 0
    for picture in pictures:
        shifted.append(picture + torch.tensor([row, 0, 0]))
        row += int(picture[:, 0].max()) + 1
    return torch.cat(shifted)


def told(pictures: Pictures, name: str) -> Any:
    """An input that describes the images.

    Raises
    ------
    ModelError
        If it was not passed.
    """
    value = pictures.get(name)
    if value is None:
        raise ModelError(f"{name} is not passed, so that rows of visual tokens are unknown; pass it with the images")
    return value


def images_only(family: Family, pictures: Pictures) -> None:
    """Refuse prompts with tokens of a video.

    Raises
    ------
    ModelError
        For families whose videos have no place for each token.
    """
    if bool((family.visual_tokens(pictures)[0] != family.visual_ids[0]).any()):
        raise ModelError(
            f"{family.model.config.model_type} does not tell places and patches of the visual tokens of a video; pass "
            "images, or choose a selector that needs neither a grid nor the vision tower"
        )


def squares(family: Family, pictures: Pictures, side: int) -> Tensor:
    """The layout of pictures that are ``side`` x ``side`` tokens each, however many of them stand side by side."""
    tokens = len(family.visual_tokens(pictures)[0])
    return below_each_other([rectangle(side, side)] * (tokens // side**2))


def square_images(family: Family, pictures: Pictures) -> Tensor:
    """The layout of images that become one token per patch."""
    images_only(family, pictures)
    vision = family.model.config.vision_config
    return squares(family, pictures, vision.image_size // vision.patch_size)


def measured(family: Family, pictures: Pictures) -> Tensor:
    """The layout of pictures and videos whose patches are counted in ``image_grid_thw`` and ``video_grid_thw``.

    Frames of a video stand below each other.
    """
    config = family.model.config
    merge = config.vision_config.spatial_merge_size
    tokens, _ = family.visual_tokens(pictures)
    layout = torch.zeros(len(tokens), 3, dtype=torch.int64)
    for name, token in (("image_grid_thw", config.image_token_id), ("video_grid_thw", config.video_token_id)):
        mine = (tokens == token).cpu()
        if bool(mine.any()):
            sizes: list[list[int]] = told(pictures, name).tolist()
            cells = below_each_other([rectangle(t * h // merge, w // merge) for t, h, w in sizes])
            if len(cells) != int(mine.sum()):
                raise ModelError(
                    f"{name} tells of {len(cells)} visual tokens, the prompt has {int(mine.sum())}; pass that of its "
                    "own images and videos"
                )
            layout[mine] = cells
    return layout


def grid_of(family: Family, pictures: Pictures, alive: Tensor) -> dict[str, Tensor]:
    """Signals ``grid`` and ``crops`` of a family that has a layout.

    Parameters
    ----------
    family : Family
    pictures : Pictures
    alive : Tensor, shape (batch, visual), bool

    Raises
    ------
    ModelError
        If the layout is not that of the prompt's visual tokens.
    """
    assert family.layout is not None
    full = torch.zeros(*alive.shape, 3, dtype=torch.int64, device=alive.device)
    if bool(alive.any()):
        layout = family.layout(family, pictures)
        if len(layout) != int(alive.sum()):
            raise ModelError(
                f"the images have {len(layout)} visual tokens, the prompt {int(alive.sum())}; pass the images of the "
                "prompt, and no others"
            )
        runs = family.visual_tokens(pictures)[1].to(layout.device)
        first = layout[:, 0].new_full((int(runs.max()) + 1,), int(layout[:, 0].max()))
        layout[:, 0] -= first.scatter_reduce(0, runs, layout[:, 0], "amin")[runs]
        full[alive] = layout.to(alive.device)
    return {"grid": full[..., :2], "crops": full[..., 2]}

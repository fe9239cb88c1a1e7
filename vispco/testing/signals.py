"""Random signals for selectors, without a model."""

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from vispco.selectors import SelectorInputs

QUESTION = 5
"""Question tokens of a sample, fewer in every other one."""

WIDTH = 8
"""Width of hidden states and keys."""

HEADS = 2
"""Attention heads, of the decoder and of the vision tower."""


def make_signals(valid: Tensor, needs: Iterable[str], seed: int = 0) -> SelectorInputs:
    """Signals in the shapes that the engine gives, and only those that are asked for.

    Parameters
    ----------
    valid : Tensor, shape (batch, visual), bool
    needs : iterable of str
    seed : int
        A token's signals depend on the seed and its place alone, not on the batch's shape.
    """
    batch, visual = valid.shape

    def draw(name: str, *shape: int) -> Tensor:
        """Numbers of a name that are the same for the same sample and token in a larger batch."""
        rows = []
        for sample in range(batch):
            tokens = [
                torch.randn(shape, generator=torch.Generator().manual_seed(hash_of(seed, name, sample, token)))
                for token in range(visual)
            ]
            rows.append(torch.stack(tokens) if tokens else torch.zeros(0, *shape))
        return torch.stack(rows)

    def draw_question(name: str) -> Tensor:
        generators = [torch.Generator().manual_seed(hash_of(seed, name, sample)) for sample in range(batch)]
        return torch.stack([torch.randn(QUESTION, WIDTH, generator=generator) for generator in generators])

    # Two images: the first half of the tokens in rows of three, and the rest likewise.
    places = torch.arange(visual).expand(batch, -1)
    half = (visual + 1) // 2
    local = torch.where(places < half, places, places - half)
    question_valid = (
        torch.arange(QUESTION)[None] < torch.tensor([QUESTION - sample % 2 for sample in range(batch)])[:, None]
    )
    made: dict[str, dict[str, Tensor]] = {
        "question_rows": {"question_rows": draw("question_rows", QUESTION).transpose(1, 2).sigmoid()},
        "question_heads": {"question_heads": draw("question_heads", HEADS, QUESTION).permute(0, 2, 3, 1).sigmoid()},
        "question_decay": {"question_decay": draw("question_decay", QUESTION).transpose(1, 2) + 2},
        "keys": {"keys": draw("keys", WIDTH), "question_keys": draw_question("question_keys")},
        "hidden": {"hidden": draw("hidden", WIDTH), "question_hidden": draw_question("question_hidden")},
        "normed": {"normed": draw("normed", WIDTH), "question_normed": draw_question("question_normed")},
        "embeddings": {
            "embeddings": draw("embeddings", WIDTH),
            "question_embeddings": draw_question("question_embeddings"),
        },
        "grid": {"grid": torch.stack([local // 3, local % 3], dim=-1)},
        "tower_keys": {"tower_keys": draw("tower_keys", HEADS, WIDTH // HEADS)},
        "tower_hidden": {"tower_hidden": draw("tower_hidden", WIDTH)},
        # Of each image the first row of three is the whole picture, and each row after it a tile.
        "crops": {"crops": local // 3},
        "sample_key": {"sample_key": torch.tensor([hash_of(seed, "key", sample) for sample in range(batch)])},
    }
    rows = ("last_row", "visual_row", "next_row", "unrotated_row", "self_mass", "cross_mass")
    for name in (*rows, "tower_row", "tower_first_row"):
        made[name] = {name: draw(name).sigmoid()}
    chosen = {name: value for need in needs for name, value in made[need].items()}
    return SelectorInputs(
        valid=valid,
        places=places,
        images=(places >= half).long(),
        sizes=1 + draw("sizes").abs().floor(),
        question_valid=question_valid,
        **chosen,
    )


def hash_of(*parts: object) -> int:
    """A number that is the same in every process."""
    return zlib.crc32(repr(parts).encode())

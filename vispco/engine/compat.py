"""What depends on the release of transformers, and whether this one is known."""

import inspect
import re
import warnings
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor

NEWEST_TESTED = (5, 23)
"""Newest minor release that the whole test suite ran on; `make test-matrix` runs the oldest and a middle one too."""


def tokens_to_remove(argument: int, length: int) -> int:
    """What a cache's ``crop(argument)`` asks to remove from the end of ``length`` tokens.

    Releases before 5.16 pass the length that shall remain, later ones the negative number of tokens to remove.
    """
    return max(length - argument, 0) if argument > 0 else -argument


def stable_name(parameter: str) -> str:
    """A parameter's name that is the same in all releases: some nest the vision tower one module deeper."""
    return re.sub(r"\bvision_tower\.vision_model\.", "vision_tower.", parameter)


def one_axis(tables: tuple[Tensor, Tensor], text: Any) -> tuple[Tensor, Tensor]:
    """Rotary tables (batch or 1, sequence, width); releases before 5.16 give layers those of M-RoPE one per axis."""
    if tables[0].dim() == 3:
        return tables
    sections = 2 * text.rope_parameters["mrope_section"]

    def merge(table: Tensor) -> Tensor:
        parts = table.split(sections, dim=-1)
        return torch.cat([part[index % 3] for index, part in enumerate(parts)], dim=-1)

    return merge(tables[0]), merge(tables[1])


def logit_cap(model: Any, text: Any) -> float | None:
    """Bound of a model's logits; some releases of PaliGemma leave out what the text configuration says."""
    code = inspect.getsource(inspect.unwrap(type(model).forward))
    cap: float | None = getattr(text, "final_logit_softcapping", None) if "final_logit_softcapping" in code else None
    return cap


def is_newer() -> bool:
    """Whether this release of transformers is newer than the tested ones."""
    return tuple(int(part) for part in transformers.__version__.split(".")[:2]) > NEWEST_TESTED


@cache
def check_release() -> None:
    """On a release newer than the tested ones, run the self-test once and warn.

    Raises
    ------
    ModelError
        If the self-test fails.
    """
    if is_newer():
        from vispco.engine.selftest import self_test  # it prunes, and pruning comes here first

        self_test()
        warnings.warn(
            f"transformers {transformers.__version__} is newer than {NEWEST_TESTED[0]}.{NEWEST_TESTED[1]}, the newest "
            "tested here; the self-test passed, but not every family is in it",
            stacklevel=3,
        )

"""A tiny random model: a stock transformers class built from configuration, and synthetic inputs for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from vispco.engine.families import REGISTRY
from vispco.errors import InputError, ModelError

PAD = 0
VIDEO = 8
IMAGE = 9
WORDS = (10, 64)
"""Text tokens are drawn from this range, so none of them stands for anything visual."""

TEXT: dict[str, Any] = {
    "vocab_size": WORDS[1],
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Arguments that every decoder configuration takes."""


@dataclass(frozen=True)
class Sample:
    """What a prompt looks like: text, images with one text token between neighbours, text.

    Attributes
    ----------
    before, after : int
        Text tokens around the images.
    images : int
        How many there are; their sizes differ where the model supports it.
    seed : int
        Of the tokens, image sizes and pixels; nothing else has a say in them.
    video : bool
        One video stands where the images would.
    """

    before: int
    images: int
    after: int
    seed: int
    video: bool = False

    def __post_init__(self) -> None:
        """Refuse what no prompt can look like."""
        if min(self.before, self.images, self.after) < 0 or self.before + self.after < 1:
            raise InputError(f"{self} is not a prompt; give counts of at least 0 and one text token or more")


RAGGED = (Sample(2, 1, 5, seed=1), Sample(1, 2, 7, seed=2), Sample(3, 0, 4, seed=3), Sample(2, 1, 9, seed=4))
"""Four samples: different text lengths; one, two, no and one image."""


@dataclass(frozen=True)
class Visuals:
    """The images of one sample, or its video.

    Attributes
    ----------
    spans : list of list of int
        Token ids of each image: its visual tokens, and what its processor puts between them.
    features : dict of str to Tensor
        Model inputs. A batch joins those of its samples along dimension 0; see :func:`join`.
    """

    spans: list[list[int]]
    features: dict[str, Tensor]


def draw_words(count: int, generator: torch.Generator) -> list[int]:
    """``count`` random text tokens."""
    words: list[int] = torch.randint(*WORDS, (count,), generator=generator).tolist()
    return words


def draw_sizes(choices: Sequence[Any], count: int, generator: torch.Generator) -> list[Any]:
    """``count`` of the ``choices``, in random order and without repetition while there are enough of them."""
    order = torch.randperm(len(choices), generator=generator).tolist()
    return [choices[order[index % len(choices)]] for index in range(count)]


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate along dimension 0; the other dimensions are padded with zeros, at their end, to the largest."""
    sizes = [max(lengths) for lengths in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    joined = tensors[0].new_zeros(sum(map(len, tensors)), *sizes)
    start = 0
    for tensor in tensors:
        where = (slice(start, start + len(tensor)), *(slice(length) for length in tensor.shape[1:]))
        joined[where], start = tensor, start + len(tensor)
    return joined


def draw_squares(count: int, generator: torch.Generator) -> Visuals:
    """Images of one size, 16 visual tokens each."""
    return Visuals([[IMAGE] * 16] * count, {"pixel_values": torch.randn(count, 3, 32, 32, generator=generator)})


def no_extras(input_ids: Tensor) -> dict[str, Tensor]:
    """For models that want nothing but token ids and a mask beside the pixels."""
    return {}


@dataclass(frozen=True)
class TinyModel:
    """One variant of a model family, small enough to run in milliseconds.

    Attributes
    ----------
    name : str
        Of the variant.
    model_type : str
        ``config.model_type``, which variants may share.
    make : callable
        The stock class, built from configuration.
    draw_images : callable
        The images of a sample, from how many there are and a generator.
    draw_video : callable, optional
        The video of a sample, from a generator; None if the model takes no videos.
    no_images : callable
        Features of a sample without images, for models that count samples rather than images; most want nothing.
    extras : callable
        Model inputs that follow from ``input_ids``, shape (batch, sequence), 0 at padding.
    backends : tuple of str
        Attention implementations that the decoder supports; the first one is what :meth:`build` sets.
    """

    name: str
    model_type: str
    make: Callable[[], PreTrainedModel] = field(repr=False)
    draw_images: Callable[[int, torch.Generator], Visuals] = field(repr=False)
    draw_video: Callable[[torch.Generator], Visuals] | None = field(default=None, repr=False)
    no_images: Callable[[], dict[str, Tensor]] = field(default=dict, repr=False)
    extras: Callable[[Tensor], dict[str, Tensor]] = field(default=no_extras, repr=False)
    backends: tuple[str, ...] = ("sdpa", "eager")

    @property
    def tower(self) -> bool:
        """Whether the signals of its vision tower are known, which some selectors need."""
        return REGISTRY[self.model_type].tower is not None

    @property
    def videos(self) -> bool:
        """Whether a sample may hold a video."""
        return self.draw_video is not None

    def build(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
        """The model, in evaluation mode and without gradients; the same bits for the same seed.

        Weights are large enough that attention is far from uniform, where equality tests would see little.
        ``model.set_attn_implementation({"text_config": backend})`` changes the backend afterwards.
        """
        # Some one-dimensional parameters (CLIP's class embedding, the newline of LLaVA-NeXT) are random from their
        # construction on, so the seed has to be set before it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = self.make()
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.5 if "embed" in name else 0.15)
        # As loading a checkpoint does: parameters only, because rotary frequencies stay in float32.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        model.eval().requires_grad_(False)
        model.set_attn_implementation({"text_config": self.backends[0]})
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = PAD
        return model

    def inputs(
        self,
        samples: Sequence[Sample],
        padding: Literal["left", "right"] = "left",
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, Tensor]:
        """What the stock ``forward`` and ``generate`` want for a batch.

        Parameters
        ----------
        samples : sequence of Sample
            One row each. A row without its padding is what the sample has in a batch of its own.
        padding : {"left", "right"}
            Side of shorter rows that is filled.
        dtype : torch.dtype
            Of the pixels.

        Returns
        -------
        dict of str to Tensor
            ``input_ids`` and ``attention_mask``, shape (batch, sequence), int64, and what the family adds to them.

        Raises
        ------
        InputError
            If ``padding`` is neither side.
        ModelError
            If a sample holds a video and the model takes none.
        """
        if padding not in ("left", "right"):
            raise InputError(f"padding {padding!r} is not a side; give 'left' or 'right'")
        rows, features = zip(*map(self._draw, samples), strict=True)
        ids = pad_sequence(list(rows), batch_first=True, padding_value=PAD, padding_side=padding)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=padding)
        names = dict.fromkeys(name for own in features for name in own)
        pixels = {name: join([own[name] for own in features if name in own]) for name in names}
        batch = {"input_ids": ids, "attention_mask": mask, **pixels, **self.extras(ids)}
        batch = {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}
        return {name: value for name, value in batch.items() if value.numel()}

    def _draw(self, sample: Sample) -> tuple[Tensor, dict[str, Tensor]]:
        """Token ids and features of one sample."""
        generator = torch.Generator().manual_seed(sample.seed)
        row = draw_words(sample.before, generator)
        if not sample.video:
            visuals = self.draw_images(sample.images, generator) if sample.images else Visuals([], self.no_images())
        elif self.draw_video is None:
            raise ModelError(f"{self.name} takes no videos; give samples with video=False")
        else:
            visuals = self.draw_video(generator)
        for index, span in enumerate(visuals.spans):
            row += (draw_words(1, generator) if index else []) + span
        return torch.tensor(row + draw_words(sample.after, generator)), visuals.features

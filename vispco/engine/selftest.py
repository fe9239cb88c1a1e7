"""A self-test of the engine on a tiny random model, and the obvious reference that it is compared with.

Dropping a token has to equal masking its key in the unpruned model with all positions kept. The reference masks by
brute force, one square mask per layer, and shares no code with the engine.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from vispco.config import ModelCard, PruningConfig
from vispco.errors import ModelError
from vispco.selectors import Choice


@contextmanager
def masked_keys(layers: Sequence[nn.Module], there: Sequence[Tensor]) -> Iterator[None]:
    """Run a stock model in which every layer sees some tokens of the prompt only, whatever else its mask says.

    Parameters
    ----------
    layers : decoder layers
    there : sequence of Tensor, one per layer, shape (batch, sequence), bool
        Tokens of the prompt that may be seen as keys. Every token sees itself, and tokens generated later are seen.
    """

    def hook(index: int, seen: Tensor) -> Any:
        def mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden, stock, cache = args[0], kwargs.get("attention_mask"), kwargs.get("past_key_values")
            tokens = hidden.shape[1]
            length = tokens + (cache.layers[index].get_seq_length() if cache is not None else 0)
            columns = length if stock is None else stock.shape[-1]  # a sliding window shows the last ones only
            generated = seen.new_ones(len(seen), length - seen.shape[1])
            own = torch.ones(tokens, columns, dtype=torch.bool)
            own = own.tril(columns - tokens) & own.triu(columns - tokens)
            visible = torch.cat([seen, generated], dim=1)[:, None, None, -columns:] | own
            if stock is None:
                stock = torch.ones(tokens, columns, dtype=torch.bool).tril(columns - tokens)
            if stock.dtype == torch.bool:
                return args, {**kwargs, "attention_mask": stock & visible}
            return args, {**kwargs, "attention_mask": stock.masked_fill(~visible, torch.finfo(stock.dtype).min)}

        return mask

    handles = [
        layer.register_forward_pre_hook(hook(index, seen), with_kwargs=True)
        for index, (layer, seen) in enumerate(zip(layers, there, strict=True))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tokens_there(visual: Tensor, real: Tensor, kept: Sequence[Tensor]) -> list[Tensor]:
    """Tokens of the sequence that run in each layer; bool, shape (batch, sequence).

    Parameters
    ----------
    visual, real : Tensor, shape (batch, sequence), bool
    kept : sequence of Tensor, one per layer, shape (batch, visual), bool
        As of :class:`vispco.engine.Pruned`.
    """
    there = []
    for alive in kept:
        rows = real.clone()
        for row in range(len(rows)):
            rows[row, visual[row]] = alive[row, : int(visual[row].sum())]
        there.append(rows)
    return there


def tiny_model() -> Any:
    """A LLaVA of four layers and four visual tokens with random weights, the same ones every time."""
    fields: dict[str, Any] = {"image_token_id": 5}  # one of two names for it that the class takes
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
        ),
        text_config=LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2
        ),
        vision_feature_layer=-1,
        **fields,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.4)
    return model


@torch.no_grad()
def self_test() -> None:
    """Check on :func:`tiny_model` that gathering every token changes no bit, and that dropping equals masking.

    Raises
    ------
    ModelError
        If one of them does not hold.
    """
    from vispco.engine.pruning import pruned_model  # which starts with this test

    model = tiny_model()
    ids = torch.tensor([[0, 7, 5, 5, 5, 5, 8, 9], [6, 7, 5, 5, 5, 5, 8, 9]])
    real = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]])
    pixels = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    inputs = {"input_ids": ids, "attention_mask": real, "pixel_values": pixels}
    config = PruningConfig(selector="fastv", keep=(1.0, 1.0, 0.5, 0.25), model=ModelCard(type="llava", layers=4))
    stock = model(**inputs).logits
    every = torch.ones(2, 4, dtype=torch.bool)
    with pruned_model(model, config.model_copy(update={"keep": (1.0,) * 4}), given=[Choice(every)] * 4):
        gathered = model(**inputs).logits
    if not torch.equal(gathered[real.bool()], stock[real.bool()]):
        raise ModelError(_failed("gathering all tokens changes the logits"))
    with pruned_model(model, config) as pruned:
        dropped = model(**inputs).logits
    there = tokens_there(ids == 5, real.bool(), pruned.kept)
    with masked_keys(model.get_decoder().layers, there):
        masked = model(**inputs).logits
    if not torch.allclose(dropped[there[-1]], masked[there[-1]], atol=1e-5):
        raise ModelError(_failed("dropping tokens does not equal masking them"))


def _failed(what: str) -> str:
    return f"the engine does not work with this release of transformers ({what}); install a tested one, 5.4 to 5.23"

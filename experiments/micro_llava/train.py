"""Train the embedded micro LLaVA on shapes world, from nothing to an ordinary checkpoint folder.

    python experiments/micro_llava/train.py --out runs/micro_llava

Two stages, as LLaVA does it: the vision tower learns dense labels of every patch and is frozen, then projector and
decoder learn to answer. Batches depend on (seed, step) alone, so a run that is started again goes on from its last
state and ends with the weights of an uninterrupted one. The folder gets `checkpoint/`, `state.pt` and `log.jsonl`.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vispco.embedded import shapes

PATCH = 8
SIDE = shapes.SIZE // PATCH
VISUAL = SIDE * SIDE
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>", "<answer>")
CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)
QUESTIONS = 8
EARLY = tuple(shapes.SLICES)
LATE = ("counting", "existence", "position", "position", "relation", "relation", "relation", "comparison")
"""Slices of the eight places: one of each at first, in the second half more of those that take longest to learn."""
SLOT = 10
"""Tokens per packed question: at most eight words, the answer marker and the answer."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    words = {word: index for index, word in enumerate([*SPECIAL, *shapes.vocabulary()])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<image>", "<answer>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    side = {"height": shapes.SIZE, "width": shapes.SIZE}
    image_processor = CLIPImageProcessorPil(
        size=side, crop_size=side, image_mean=[0.5, 0.5, 0.5], image_std=[0.25, 0.25, 0.25], do_convert_rgb=True
    )
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        image_size=shapes.SIZE, patch_size=PATCH, projection_dim=64,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1, vision_feature_select_strategy="default", image_seq_length=VISUAL,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0, max_new_tokens=4)
    return model


def to_pixels(images: np.ndarray) -> Tensor:
    """What the image processor makes of uint8 images of shape (batch, side, side, 3)."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0 - 0.5) / 0.25


# --- stage 1: the vision tower ---------------------------------------------------------------------------------------


class DenseHeads(nn.Module):
    """Linear readers of one patch feature: what its cell shows, in which colour, and which cell it is."""

    def __init__(self, width: int):
        super().__init__()
        self.kind = nn.Linear(width, 2 + len(shapes.SHAPES) + 10)
        self.color = nn.Linear(width, 1 + len(shapes.COLORS))
        self.row = nn.Linear(width, shapes.GRID)
        self.column = nn.Linear(width, shapes.GRID)


def dense_labels(scene: shapes.Scene) -> np.ndarray:
    """Kind and colour of every cell, array of shape (2, grid, grid): 0 nothing, 1 scribble, shapes, digits."""
    labels = np.zeros((2, shapes.GRID, shapes.GRID), dtype=np.int64)
    for cell in scene.scribbles:
        labels[(0, *cell)] = 1
    for thing in scene.things:
        labels[(0, *thing.cell)] = 2 + shapes.SHAPES.index(thing.shape)
        labels[(1, *thing.cell)] = 1 + list(shapes.COLORS).index(thing.color)
    labels[(0, *scene.digit_cell)] = 2 + len(shapes.SHAPES) + scene.digit
    return labels


def vision_batch(seed: int, step: int, size: int, split: str = "train") -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng([seed, 11 + shapes.SPLITS.index(split), step])
    images, labels = [], []
    for _ in range(size):
        scene = shapes.draw_scene(rng, split)
        images.append(shapes.render(scene, rng))
        # Digits are the hard part and one cell of 25: five more of them where the scene is empty.
        label = dense_labels(scene)
        for cell in map(tuple, rng.permutation(np.argwhere(label[0] == 0))[:5].tolist()):
            sample = int(rng.choice(shapes._digit_split(split)))
            shapes.paste_digit(images[-1], cell, sample, rng)
            label[(0, *cell)] = 2 + len(shapes.SHAPES) + int(shapes._digits()[1][sample])
        labels.append(label)
    per_patch = np.stack(labels).repeat(SIDE // shapes.GRID, axis=2).repeat(SIDE // shapes.GRID, axis=3)
    return to_pixels(np.stack(images)), torch.from_numpy(per_patch.reshape(size, 2, -1))


def patch_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    return model.model.vision_tower(pixels).last_hidden_state[:, 1:]


def vision_loss(model: LlavaForConditionalGeneration, heads: DenseHeads, pixels: Tensor, labels: Tensor):
    return dense_loss(heads, patch_features(model, pixels), labels)


def dense_loss(heads: DenseHeads, features: Tensor, labels: Tensor, place: float = 0.3):
    patch = torch.arange(VISUAL)
    scale = SIDE // shapes.GRID
    weight = torch.ones(heads.kind.out_features)
    weight[0] = 0.15
    kind = heads.kind(features)
    loss = F.cross_entropy(kind.flatten(0, 1), labels[:, 0].flatten(), weight=weight)
    weight = torch.ones(heads.color.out_features)
    weight[0] = 0.1
    loss = loss + F.cross_entropy(heads.color(features).flatten(0, 1), labels[:, 1].flatten(), weight=weight)
    for head, target in ((heads.row, patch // SIDE // scale), (heads.column, patch % SIDE // scale)):
        loss = loss + place * F.cross_entropy(head(features).flatten(0, 1), target.repeat(len(features)))
    return loss, kind


@torch.no_grad()
def vision_accuracy(model, heads, seed: int) -> dict[str, float]:
    pixels, labels = vision_batch(seed, 0, 256, "validation")
    return dense_accuracy(heads, patch_features(model, pixels), labels)


def dense_accuracy(heads: DenseHeads, features: Tensor, labels: Tensor) -> dict[str, float]:
    kind, color = heads.kind(features).argmax(-1), heads.color(features).argmax(-1)
    first_digit = 2 + len(shapes.SHAPES)
    shape = (labels[:, 0] >= 2) & (labels[:, 0] < first_digit)
    digit = labels[:, 0] >= first_digit
    return {
        "shape": (kind == labels[:, 0])[shape].float().mean().item(),
        "digit": (kind == labels[:, 0])[digit].float().mean().item(),
        "color": (color == labels[:, 1])[shape].float().mean().item(),
        "empty": (kind == labels[:, 0])[labels[:, 0] < 2].float().mean().item(),
    }


# --- stage 2: answering ----------------------------------------------------------------------------------------------


def question_batch(tokenizer, seed: int, step: int, size: int, most: int, split: str = "train", places=EARLY):
    """Images and packed questions; a slice that the scene cannot ask gives its place to any other one."""
    rng = np.random.default_rng([seed, 21 + shapes.SPLITS.index(split), step])
    ids = np.zeros((size, len(places), SLOT), dtype=np.int64)
    labels = np.full((size, len(places), SLOT), -100, dtype=np.int64)
    slices = np.zeros((size, len(places)), dtype=np.int64)
    images = []
    names, asks = list(shapes.SLICES), list(shapes.SLICES.values())
    vocabulary = tokenizer.get_vocab()
    for row in range(size):
        scene = shapes.draw_scene(rng, split, most)
        images.append(shapes.render(scene, rng))
        for place, name in enumerate(places):
            kind = names.index(name)
            while (asked := asks[kind](scene, rng)) is None:
                kind = int(rng.integers(len(asks)))
            words = [vocabulary[word] for word in [*asked[0].split(), "<answer>", asked[1]]]
            ids[row, place, : len(words)] = words
            labels[row, place, len(words) - 2 : len(words)] = [words[-1], vocabulary["<eos>"]]
            slices[row, place] = kind
    return to_pixels(np.stack(images)), torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(slices)


def packed_mask(ids: Tensor) -> Tensor:
    """Boolean mask (batch, 1, S, S): every question sees the image and itself, never another question."""
    prefix = 1 + VISUAL
    block = torch.arange(QUESTIONS).repeat_interleave(SLOT)
    group = torch.cat([torch.full((prefix,), -1), block])
    causal = torch.ones(len(group), len(group), dtype=torch.bool).tril()
    sees = causal & ((group[None] == -1) | (group[None] == group[:, None]))
    real = torch.cat([torch.ones(len(ids), prefix, dtype=torch.bool), ids.flatten(1) != 0], dim=1)
    return (sees[None] & (real[:, None] | torch.eye(len(group), dtype=torch.bool)))[:, None]


def answer_logits(model: LlavaForConditionalGeneration, pixels: Tensor, ids: Tensor, where: Tensor) -> Tensor:
    """Logits at the packed positions ``where`` (boolean, like ids), in order."""
    with torch.no_grad():
        features = patch_features(model, pixels)
    visual = model.model.multi_modal_projector(features)
    embed = model.get_input_embeddings()
    bos = embed(torch.ones(len(ids), 1, dtype=torch.long))
    inputs = torch.cat([bos, visual, embed(ids.flatten(1))], dim=1)
    prefix = 1 + VISUAL
    positions = torch.cat([torch.arange(prefix), prefix + torch.arange(SLOT).repeat(QUESTIONS)])
    hidden = model.model.language_model(
        inputs_embeds=inputs, attention_mask=packed_mask(ids), position_ids=positions[None], use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[:, prefix:][where.flatten(1)])


@torch.no_grad()
def slice_accuracy(model, tokenizer, seed: int, images: int = 384, answer=answer_logits) -> dict[str, float]:
    right = torch.zeros(len(shapes.SLICES))
    asked = torch.zeros(len(shapes.SLICES))
    for part in range(images // 64):
        pixels, ids, labels, slices = question_batch(tokenizer, seed, part, 64, 6, "validation")
        first = (labels != -100).int().cumsum(-1).eq(1) & (labels != -100)
        hit = answer(model, pixels, ids, first).argmax(-1) == labels[first]
        right.index_add_(0, slices.flatten(), hit.float())
        asked.index_add_(0, slices.flatten(), torch.ones_like(hit, dtype=torch.float))
    return dict(zip(shapes.SLICES, (right / asked).tolist(), strict=True))


# --- the run ---------------------------------------------------------------------------------------------------------


def schedule(step: int, steps: int, warm: int = 100) -> float:
    """Linear warm-up, then a cosine to one hundredth."""
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def save_state(path: Path, **state) -> None:
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vision-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--compile", action="store_true", help="compile the decoder layers (faster, other rounding)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    heads = DenseHeads(model.config.vision_config.hidden_size)
    state_path = options.out / "state.pt"
    state = torch.load(state_path, weights_only=True) if state_path.exists() else None
    if options.compile:
        for layer in model.model.language_model.layers:
            layer.forward = torch.compile(layer.forward, dynamic=False)
    stages = {
        "vision": ([*model.model.vision_tower.parameters(), *heads.parameters()], options.vision_steps, 64),
        "answers": (
            [*model.model.multi_modal_projector.parameters(), *model.model.language_model.parameters(),
             *model.lm_head.parameters()], options.steps, options.batch,
        ),
    }  # fmt: skip
    if state:
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
    for stage, (parameters, steps, batch) in stages.items():
        if state and state["stage"] == "answers" and stage == "vision":
            continue
        optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.01, betas=(0.9, 0.98))
        start = 0
        if state and state["stage"] == stage:
            optimizer.load_state_dict(state["optimizer"])
            start = state["step"]
        began, losses = time.time(), []
        for step in range(start, steps):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * schedule(step, steps)
            if stage == "vision":
                loss, _ = vision_loss(model, heads, *vision_batch(options.seed, step, batch))
            else:
                # Binding appears with few objects on the table and then holds for more.
                most = min(6, 2 + int(step / (0.35 * steps) * 5))
                places = EARLY if step < 0.6 * steps else LATE
                pixels, ids, labels, _ = question_batch(tokenizer, options.seed, step, batch, most, places=places)
                where = labels != -100
                loss = F.cross_entropy(answer_logits(model, pixels, ids, where), labels[where])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
            if (step + 1) % options.save_every == 0 or step + 1 == steps:
                report = {"stage": stage, "step": step + 1, "loss": round(float(np.mean(losses)), 4),
                          "seconds": round(time.time() - began, 1)}  # fmt: skip
                scores = (
                    vision_accuracy(model, heads, options.seed)
                    if stage == "vision"
                    else slice_accuracy(model, tokenizer, options.seed)
                )
                report |= {name: round(value, 3) for name, value in scores.items()}
                print(json.dumps(report), flush=True)
                with (options.out / "log.jsonl").open("a") as log:
                    log.write(json.dumps(report) + "\n")
                losses.clear()
                save_state(state_path, stage=stage, step=step + 1, model=model.state_dict(),
                           heads=heads.state_dict(), optimizer=optimizer.state_dict())  # fmt: skip
    model.save_pretrained(options.out / "checkpoint")
    build_processor(tokenizer).save_pretrained(options.out / "checkpoint")


if __name__ == "__main__":
    main()

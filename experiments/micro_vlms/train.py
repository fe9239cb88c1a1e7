"""Train micro Qwen2.5-VL or micro Gemma3 on shapes world, from nothing to an ordinary checkpoint folder.

    python -m experiments.micro_vlms.train --model gemma3 --out runs/micro_gemma3

The recipe of the micro LLaVA: the vision tower learns dense labels and is frozen, then projector and decoder learn to
answer. Cheaper by small batches of images with twelve questions each, six decoder layers and Muon. Batches depend
on (seed, step) alone, so a run that is started again goes on from its last state.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.micro_llava import train as llava
from experiments.micro_vlms.families import FAMILIES, PREFIX, SIDE, VISUAL, Family
from vispco.embedded import shapes

EARLY = (*shapes.SLICES, "counting", "existence", "position", "comparison")
LATE = {
    "qwen2_5_vl": ("attribute", "category", "counting", "counting", "existence", "position", "position", "reading",
                   "relation", "relation", "comparison", "comparison"),
    "gemma3": ("attribute", "category", "category", "counting", "existence", "existence", "existence", "position",
               "reading", "relation", "comparison", "comparison"),
}  # fmt: skip
"""Slices of the twelve places: one of each and four more at first, later more of those that take longest to learn."""


def packed_hidden(family: Family, model, prefix: Tensor, features: Tensor, ids: Tensor) -> Tensor:
    embed = model.get_input_embeddings()
    text = embed(torch.cat([prefix.expand(len(ids), -1), ids.flatten(1)], dim=1))
    inputs = torch.cat([text[:, :2], family.visual(model, features), text[:, 2 + VISUAL :]], dim=1)
    return family.decode(model, inputs, ids.shape[1])


def answer_logits(family: Family, model, prefix: Tensor, pixels: Tensor, ids: Tensor, where: Tensor) -> Tensor:
    """Logits at the packed positions ``where`` (boolean, like ids), in order."""
    with torch.no_grad():
        features = family.features(model, pixels)
    hidden = packed_hidden(family, model, prefix, features, ids)
    return model.lm_head(hidden[:, PREFIX:][where.flatten(1)])


class Places(nn.Module):
    """Reads row and column of every visual token from a hidden state of the decoder.

    For a tower with rotary positions alone, whose features do not say where they are.
    """

    def __init__(self, layer: nn.Module, width: int):
        super().__init__()
        self.row, self.column = nn.Linear(width, SIDE), nn.Linear(width, SIDE)
        self.hidden: Tensor
        layer.register_forward_hook(self._keep)

    def _keep(self, module, args, output) -> None:
        self.hidden = output[0] if isinstance(output, tuple) else output

    def loss(self) -> Tensor:
        hidden = F.rms_norm(self.hidden[:, 2 : 2 + VISUAL], self.hidden.shape[-1:])
        place = torch.arange(VISUAL).repeat(len(hidden))
        rows = F.cross_entropy(self.row(hidden).flatten(0, 1), place // SIDE)
        return rows + F.cross_entropy(self.column(hidden).flatten(0, 1), place % SIDE)


def optimizers(parameters: list[tuple[str, nn.Parameter]], lr: float, muon: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of layers, AdamW for all else."""
    matrices = [p for name, p in parameters if p.ndim == 2 and (".layers." in name or ".blocks." in name)]
    ids = set(map(id, matrices))
    rest = [p for _, p in parameters if id(p) not in ids]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=lr, weight_decay=0.01, betas=(0.9, 0.98)),
        torch.optim.Muon(matrices, lr=muon, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    for optimizer in chosen:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return chosen


class Trainee:
    """A model in training: what it is asked at a step, what it loses, how good it is."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.family = options, FAMILIES[options.model]
        self.tokenizer = self.family.tokenizer()
        self.prefix = self.family.prefix(self.tokenizer)
        self.model = self.family.build(self.tokenizer)
        self.model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0, max_new_tokens=4)
        width = self.read(torch.zeros(1, 3, shapes.SIZE, shapes.SIZE)).shape[-1]
        self.heads = llava.DenseHeads(width)
        self.places = Places(self.model.model.language_model.layers[1], self.model.config.text_config.hidden_size)
        self.extras = nn.ModuleDict({"heads": self.heads, "places": self.places})

    def read(self, pixels: Tensor) -> Tensor:
        """What the dense labels are read from: visual tokens, before the projector where that keeps their number."""
        features = self.family.features(self.model, pixels)
        return features if self.family.positions else self.family.visual(self.model, features)

    def answer(self, model, pixels: Tensor, ids: Tensor, where: Tensor) -> Tensor:
        return answer_logits(self.family, model, self.prefix, pixels, ids, where)

    def parameters(self, stage: str) -> list[tuple[str, nn.Parameter]]:
        """The tower at first; later all but the tower, whose merger is a projector and learns in both stages."""
        tower = {id(p) for p in self.family.tower(self.model).parameters()}
        named = list(self.model.named_parameters())
        if stage == "vision":
            return [*((n, p) for n, p in named if id(p) in tower), *self.heads.named_parameters()]
        late = [(n, p) for n, p in named if id(p) not in tower or ".merger." in n]
        return [*late, *self.places.named_parameters()]

    def vision_loss(self, step: int) -> Tensor:
        pixels, labels = llava.vision_batch(self.options.seed, step, self.options.vision_batch)
        place = 0.3 if self.family.positions else 0.0
        return llava.dense_loss(self.heads, self.read(pixels), labels, place)[0]

    def answer_loss(self, step: int) -> Tensor:
        options = self.options
        most = min(6, 2 + int(step / (options.grow * options.steps) * 5))
        asked = EARLY if step < options.late * options.steps else LATE[options.model]
        pixels, ids, labels, _ = llava.question_batch(
            self.tokenizer, options.seed, step, options.batch, most, places=asked
        )
        where = labels != -100
        loss = F.cross_entropy(self.answer(self.model, pixels, ids, where), labels[where])
        return loss + options.places * self.places.loss() if options.places else loss

    @torch.no_grad()
    def scores(self, stage: str) -> dict[str, float]:
        if stage == "vision":
            pixels, labels = llava.vision_batch(self.options.seed, 0, 64, "validation")
            return llava.dense_accuracy(self.heads, self.read(pixels), labels)
        return llava.slice_accuracy(self.model, self.tokenizer, self.options.seed, 128, self.answer)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.family.save_processor(self.tokenizer, folder)


def train(trainee: Trainee, stage: str, steps: int, state: dict | None) -> None:
    """Run one stage from its start or from ``state``; every 100 steps it is logged and the state saved."""
    options, parameters = trainee.options, trainee.parameters(stage)
    chosen = optimizers(parameters, options.lr, options.muon)
    start = 0
    if state and state["stage"] == stage:
        for optimizer, saved in zip(chosen, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start = state["step"]
    began, losses = time.time(), []
    for step in range(start, steps):
        for optimizer in chosen:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * llava.schedule(step, steps, 50)
        loss = trainee.vision_loss(step) if stage == "vision" else trainee.answer_loss(step)
        for optimizer in chosen:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in parameters], 1.0)
        for optimizer in chosen:
            optimizer.step()
        losses.append(loss.item())
        if (step + 1) % options.save_every == 0 or step + 1 == steps:
            report = {"stage": stage, "step": step + 1, "loss": round(float(np.mean(losses)), 4),
                      "seconds": round(time.time() - began, 1)}  # fmt: skip
            report |= {name: round(value, 3) for name, value in trainee.scores(stage).items()}
            print(json.dumps(report), flush=True)
            with (options.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(report) + "\n")
            losses.clear()
            llava.save_state(
                options.out / "state.pt", stage=stage, step=step + 1, model=trainee.model.state_dict(),
                extras=trainee.extras.state_dict(), optimizers=[optimizer.state_dict() for optimizer in chosen],
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=FAMILIES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vision-steps", type=int, default=1000)
    parser.add_argument("--vision-batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3, help="of AdamW")
    parser.add_argument("--muon", type=float, default=4e-3, help="learning rate of Muon, for the matrices of layers")
    parser.add_argument("--places", type=float, default=0.0, help="weight of reading rows and columns after 2 layers")
    parser.add_argument("--grow", type=float, default=0.35, help="share of the steps over which scenes grow")
    parser.add_argument("--late", type=float, default=0.5, help="share of the steps after which slow slices get more")
    parser.add_argument("--save-every", type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    trainee = Trainee(options)
    path = options.out / "state.pt"
    state = torch.load(path, weights_only=True) if path.exists() else None
    if state:
        trainee.model.load_state_dict(state["model"])
        trainee.extras.load_state_dict(state["extras"])
    if not state or state["stage"] == "vision":
        train(trainee, "vision", options.vision_steps, state)
    train(trainee, "answers", options.steps, state)
    trainee.save(options.out / "checkpoint")


if __name__ == "__main__":
    main()

"""What choosing tokens costs: selector time over prefill time, growth with N, and batched loops against Python loops.

python -m experiments.selectors.overhead --preset cpu
python -m experiments.selectors.overhead --tables-only
"""

import argparse
import copy
import gc
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig

from experiments.engine.models import IMAGE, LLAMA_7B, SMALL, TEXT_TOKENS, TINY, Decoder
from experiments.selectors.page import rewrite, table
from vispco import ModelCard, PruningConfig, prune
from vispco.engine.prefill import Prefill
from vispco.engine.tower import LAYOUT, TOWER, Watch
from vispco.profiling import Pairs, clocks, peak_bytes, seconds
from vispco.schedule import keep_counts
from vispco.selectors import REGISTRY, Merger, Selector, SelectorInputs, make_selector
from vispco.selectors.base import Need, Scorer
from vispco.selectors.cdpruner import greedy_dpp
from vispco.selectors.covering import farthest_points, seed_gaps, unit_rows

FOLDER = Path(__file__).parent
PAGE = FOLDER / "overhead.md"

KEEP = 0.22
CUT = 2
QUESTION = TEXT_TOKENS // 2
TILE = 576
"""Tokens of one tile of an image, for selectors that ask for tiles."""

SLOW = 3.0
"""Seconds from which a call is not repeated."""

MEMORY = 10 * 2**30
"""Bytes that a selector may take; what would take more is not run, and its row says so."""

TOKEN_STEPS = 2
"""Steps that a loop over tokens is timed for; every step does the same work."""

Call = Callable[[], Any]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Prompt:
    """Images of a prompt, each of ``side`` x ``side`` visual tokens, and how often everything is timed with them."""

    images: int
    side: int
    rounds: int

    @property
    def tokens(self) -> int:
        """Visual tokens."""
        return self.images * self.side**2


@dataclass(frozen=True)
class Loops:
    """What the loops are timed with."""

    tokens: int = 2880
    kept: int = 320
    batches: tuple[int, ...] = (1, 8)
    widths: tuple[int, ...] = (64, 256, 1024)
    rounds: int = 3


@dataclass(frozen=True)
class Preset:
    """A model's shape and what is timed on it."""

    device: str
    dtype: torch.dtype
    decoder: Decoder
    tower_width: int
    tower_heads: int
    prompts: tuple[Prompt, ...] = (Prompt(1, 24, 11), Prompt(5, 24, 5), Prompt(16, 25, 2))
    growth: tuple[Prompt, ...] = tuple(Prompt(images, 12, 5) for images in (5, 10, 20, 40))
    growth_kept: int = 128
    loops: Loops = field(default_factory=Loops)


PRESETS = {
    "cpu": Preset("cpu", torch.float32, SMALL, tower_width=64, tower_heads=4),
    "gpu": Preset("cuda", torch.bfloat16, LLAMA_7B, tower_width=1024, tower_heads=16),
    "rehearsal": Preset(
        "cpu",
        torch.float32,
        replace(TINY, layers=3),
        tower_width=16,
        tower_heads=2,
        prompts=(Prompt(1, 6, 2), Prompt(2, 6, 1)),
        growth=(Prompt(1, 4, 1), Prompt(2, 4, 1), Prompt(4, 4, 1)),
        growth_kept=8,
        loops=Loops(tokens=40, kept=6, batches=(1, 2), widths=(8,), rounds=1),
    ),
}
"""``gpu`` has the shapes of LLaVA-1.5-7B and its vision tower; ``rehearsal`` runs every code path in seconds."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--out", type=Path, help="results, by default results/overhead_PRESET.json")
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose tables are written anew; cpu results only")
    parser.add_argument("--tables-only", action="store_true", help="write the page from results that are there")
    options = parser.parse_args(arguments)
    out = options.out or FOLDER / "results" / f"overhead_{options.preset}.json"
    if not options.tables_only:
        # One thread: cores that others use too make the speed of several threads a matter of luck.
        torch.set_num_threads(1)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(measure(options.preset), indent=1) + "\n")
    if options.preset == "cpu":
        rewrite(options.page, tables(json.loads(out.read_text())))


@torch.no_grad()
def measure(name: str) -> dict[str, Any]:
    """All three parts."""
    preset = PRESETS[name]
    cuda = preset.device == "cuda"
    results = {
        "preset": name,
        "environment": {
            "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.backends.cpu.get_cpu_capability()}",
            "clock": clock_of(preset.device),
            "threads": torch.get_num_threads(),
            "dtype": str(preset.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    # Positions beyond what a model was made for change its output and not its time.
    warnings.filterwarnings("ignore", message=".*maximum length.*")
    gc.freeze()  # what the imports left is no garbage, and looking through it takes longer than many a call
    results["loops"] = compare_loops(preset)
    results["growth"] = measure_growth(preset)
    results["overhead"] = measure_overhead(preset)
    return results


def clock_of(device: str) -> str:
    """The clock that figures are from: a process that waits for its turn on a shared CPU uses no CPU time."""
    return "cpu" if "cpu" in clocks(device) else "wall"


def time_rounds(calls: Mapping[str, Call], device: str, rounds: int) -> Times:
    """Seconds of every call in every round; calls take turns, every other round backwards.

    Before the first round everything that is fast runs once. Of what is slow the first call counts, and is the only
    one, but for the first name, which is there in every round for the others to be compared with.
    """
    clock, times = clock_of(device), {name: list[float]() for name in calls}
    reference, slow = next(iter(calls)), set[str]()
    for name, call in calls.items():
        first = seconds(call, device)[clock]
        if first >= SLOW:
            times[name].append(first)
            slow |= {name} - {reference}
    for turn in range(rounds):
        for name in list(calls)[:: -1 if turn % 2 else 1]:
            if name not in slow:
                times[name].append(seconds(calls[name], device)[clock])
    if len(times[reference]) > rounds:
        times[reference] = times[reference][-rounds:]
    return times


def ratio(times: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Median of the ratios of single rounds and its interval; of a single call, over the reference's median."""
    if len(times) != len(reference):
        return {"value": median(times) / median(reference)}
    return rounded(Pairs(list(reference), list(times)).ratio()._asdict())


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}


# Selectors


def selectors(heads: int) -> dict[str, Selector]:
    """Every registered selector as a user gets it; counts of heads are halved where the model has fewer."""
    made = {name: make_selector(name) for name in REGISTRY}
    for name, selector in made.items():
        if getattr(selector, "heads", 0) > heads:
            made[name] = make_selector(name, {"heads": max(1, heads // 2)})
    return made


def action(selector: Selector) -> Callable[[SelectorInputs, Tensor], Any]:
    """What the engine calls."""
    return selector.merge if isinstance(selector, Merger) else selector.choose


def random_signals(tokens: int, preset: Preset, batch: int = 1) -> SelectorInputs:
    """Signals in the shapes of a model, drawn all at once; one image as near to a square as its tokens allow."""
    device, decoder = preset.device, preset.decoder
    key_width = decoder.hidden // decoder.heads * decoder.kv_heads
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, device=device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator, device=device)

    places = torch.arange(tokens, device=device).expand(batch, -1)
    columns = next(side for side in range(int(tokens**0.5 + 1e-9), tokens + 1) if tokens % side == 0)
    rows = ("last_row", "visual_row", "next_row", "unrotated_row", "self_mass", "cross_mass")
    states = {"keys": key_width, "hidden": decoder.hidden, "normed": decoder.hidden, "embeddings": decoder.hidden}
    return SelectorInputs(
        valid=torch.ones(batch, tokens, dtype=torch.bool, device=device),
        places=places,
        images=torch.zeros_like(places),
        sizes=torch.ones(batch, tokens, device=device),
        question_rows=uniform(QUESTION, tokens),
        question_heads=uniform(decoder.heads, QUESTION, tokens),
        question_decay=normal(QUESTION, tokens) + 2,
        question_valid=torch.ones(batch, QUESTION, dtype=torch.bool, device=device),
        grid=torch.stack([places // columns, places % columns], dim=-1),
        sample_key=torch.arange(batch, device=device),
        tower_keys=normal(tokens, preset.tower_heads, preset.tower_width // preset.tower_heads),
        tower_hidden=normal(tokens, preset.tower_width),
        crops=places // TILE,
        **{name: uniform(tokens) for name in (*rows, "tower_row", "tower_first_row")},
        **{name: normal(tokens, width) for name, width in states.items()},
        **{f"question_{name}": normal(QUESTION, width) for name, width in states.items()},
    )


# Signals, as the engine computes them


class _Reached(Exception):
    """Ends a forward at its cut."""


class Everything(Scorer):
    """Asks for all signals, so that a forward meets all that they are made of; it stops before anything is chosen."""

    needs = frozenset(get_args(Need))

    def score(self, inputs: SelectorInputs) -> Tensor:
        return inputs.valid.float()


class Scene:
    """A forward that stopped at its cut, from which signals can be computed again and again."""

    def __init__(self) -> None:
        self.looks: dict[str, tuple[Any, ...]] = {}
        self.seen: Any = None

    def signals(self, selector: Selector) -> SelectorInputs:
        """What the engine does for a selector: tower, first layer, layer before the cut, and the cut."""
        watch, state, needs = self.watch, self.state, selector.needs
        watch.needs, watch._laid_out, watch._seen = needs & TOWER, bool(needs & LAYOUT), {}
        if needs & TOWER:
            watch._look(*self.looks["tower_row"])
            if "tower_first_row" in needs:
                watch._look(*self.looks["tower_first_row"])
            watch._take_output(*self.output)
        state.constant = watch.signals(self.pictures, self.alive)
        if "embeddings" in needs:
            state.constant |= state._here(state._rows_of("embeddings", self.first))
        state.selector, state.signals = selector, {}
        state.observe(self.seen)
        return state.inputs(CUT, self.hidden, self.arguments)


@contextmanager
def scene(model: Any, inputs: dict[str, Tensor]) -> Iterator[Scene]:
    """Run a model up to its cut; inside the block its signals can be computed."""
    layers, found = model.config.get_text_config().num_hidden_layers, Scene()
    config = PruningConfig(
        selector="everything",
        keep=(1.0,) * CUT + (KEEP,) * (layers - CUT),
        model=ModelCard(type=model.config.model_type, layers=layers),
    )
    look, take, tower_signals, enter = Watch._look, Watch._take_output, Watch.signals, Prefill.enter

    def on_look(watch: Watch, name: str, *rest: Any) -> None:
        found.looks[name] = (name, *rest)
        look(watch, name, *rest)

    def on_output(watch: Watch, *rest: Any) -> None:
        found.output = rest
        take(watch, *rest)

    def on_signals(watch: Watch, *rest: Any) -> dict[str, Tensor]:
        found.watch, (found.pictures, found.alive) = watch, rest
        return tower_signals(watch, *rest)

    def on_layer(state: Prefill, layer: int, counts: Tensor, hidden: Tensor, *rest: Any) -> tuple[Prefill, Tensor]:
        if layer == 0:
            found.first = hidden
        return enter(state, layer, counts, hidden, *rest)

    def on_attention(state: Prefill, seen: Any) -> None:
        if state.watch:
            found.seen = seen

    def on_cut(state: Prefill, layer: int, hidden: Tensor, arguments: dict[str, Any]) -> SelectorInputs:
        found.state, found.hidden, found.arguments = state, hidden, arguments
        raise _Reached

    with ExitStack() as block:
        with (
            patch.dict(REGISTRY, everything=Everything),
            patch.multiple(Watch, _look=on_look, _take_output=on_output, signals=on_signals),
            patch.multiple(Prefill, enter=on_layer, observe=on_attention, inputs=on_cut),
            suppress(_Reached),
        ):
            block.enter_context(prune(model, config))
            model(**inputs, use_cache=True, logits_to_keep=1)
        yield found


def build(preset: Preset, prompt: Prompt) -> tuple[Any, dict[str, Tensor]]:
    """A random-weight LLaVA with a vision tower of two layers, and the inputs of its forward."""
    torch.manual_seed(0)
    pixels = 2 * prompt.side
    vision = CLIPVisionConfig(
        hidden_size=preset.tower_width, intermediate_size=2 * preset.tower_width, num_hidden_layers=2,
        num_attention_heads=preset.tower_heads, projection_dim=16, image_size=pixels, patch_size=2,
    )  # fmt: skip
    text = LlamaConfig(**(preset.decoder.config() | {"max_position_embeddings": 16384}))
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-1)
    with torch.device(preset.device):
        model = AutoModelForImageTextToText.from_config(config, dtype=preset.dtype).eval().requires_grad_(False)
    words = torch.arange(10, 10 + QUESTION)
    ids = torch.cat([words, torch.full((prompt.tokens,), IMAGE), words])[None].to(preset.device)
    pictures = torch.randn(prompt.images, 3, pixels, pixels, dtype=preset.dtype, device=preset.device)
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pictures}


def unpruned(model: Any, inputs: dict[str, Tensor]) -> Call:
    """The prefill that times are compared with: the decoder's, as in a budget, without vision tower and logits.

    Of a copy, as signals can be computed only while the model itself is being pruned.
    """
    decoder, embed = copy.deepcopy(model.get_decoder()), model.get_input_embeddings()
    embeddings = embed(torch.zeros_like(inputs["input_ids"])) + torch.randn(
        *inputs["input_ids"].shape, decoder.config.hidden_size, dtype=model.dtype, device=model.device
    )
    return partial(decoder, inputs_embeds=embeddings, use_cache=True)


# The three parts


def measure_overhead(preset: Preset) -> list[dict[str, Any]]:
    """Selector time over prefill time, by number of visual tokens."""
    parts: list[dict[str, Any]] = []
    made = selectors(preset.decoder.heads)
    for prompt in preset.prompts:
        kept = int(keep_counts((KEEP,), prompt.tokens)[0])
        counts = torch.tensor([kept])
        inputs = random_signals(prompt.tokens, preset)
        before = {row["selector"]: row["peak MiB"] * 2**20 for row in parts[-1]["rows"]} if parts else {}
        growth = (prompt.tokens / parts[-1]["visual tokens"]) ** 2 if parts else 0.0
        skipped = {
            name: f"not run: would take up to {before[name] * growth / 2**30:.0f} GiB"
            for name in made
            if before and before[name] * growth > MEMORY
        }
        model, prompted = build(preset, prompt)
        stock = unpruned(model, prompted)
        with scene(model, prompted) as computed:
            calls: dict[str, Call] = {"stock": stock, "stock again": stock}
            for name, selector in made.items():
                calls[f"signals {name}"] = partial(computed.signals, selector)
                if name not in skipped:
                    calls[f"choose {name}"] = partial(action(selector), inputs, counts)
            times = time_rounds(calls, preset.device, prompt.rounds)
        reference = times["stock"]
        part: dict[str, Any] = {
            "visual tokens": prompt.tokens,
            "kept": kept,
            "prefill s": float(f"{median(reference):.4g}"),
            "rounds": prompt.rounds,
            "stock against itself": ratio(times["stock again"], reference),
            "rows": [],
        }
        for name in made:
            signals = times[f"signals {name}"]
            row: dict[str, Any] = {
                "selector": name,
                "signals": {"s": float(f"{median(signals):.4g}"), **ratio(signals, reference)},
            }
            if name in skipped:
                row |= {"choose": None, "peak MiB": before[name] * growth / 2**20, "reason": skipped[name]}
            else:
                chosen = times[f"choose {name}"]
                row["choose"] = {"s": float(f"{median(chosen):.4g}"), "calls": len(chosen), **ratio(chosen, reference)}
                # Counting slows a call down and is not worth a slow one: the square of N gives a bound.
                again = median(chosen) < SLOW or name not in before
                peak = peak_bytes(calls[f"choose {name}"], preset.device) if again else before[name] * growth
                row |= {"peak MiB": round(peak / 2**20, 1), "peak": "counted" if again else "bound"}
            part["rows"].append(row)
        parts.append(part)
        print(f"{prompt.tokens} visual tokens: prefill {part['prefill s']} s", flush=True)
    return parts


def measure_growth(preset: Preset) -> dict[str, Any]:
    """Exponents of time in N at a fixed K."""
    counts, made = torch.tensor([preset.growth_kept]), selectors(preset.decoder.heads)
    tokens = [prompt.tokens for prompt in preset.growth]
    found: dict[str, dict[str, list[float]]] = {name: {"choose": [], "signals": []} for name in made}
    for prompt in preset.growth:
        inputs = random_signals(prompt.tokens, preset)
        with scene(*build(preset, prompt)) as computed:
            calls: dict[str, Call] = {}
            for name, selector in made.items():
                calls[f"choose {name}"] = partial(action(selector), inputs, counts)
                calls[f"signals {name}"] = partial(computed.signals, selector)
            times = time_rounds(calls, preset.device, prompt.rounds)
        for name, both in found.items():
            for kind, medians in both.items():
                medians.append(float(f"{median(times[f'{kind} {name}']):.4g}"))
        print(f"growth: {prompt.tokens} visual tokens done", flush=True)
    rows = []
    for name, both in found.items():
        both["both"] = [sum(pair) for pair in zip(*both.values(), strict=True)]
        kinds = ("choose", "both")
        rows.append(
            {
                "selector": name,
                "complexity": made[name].complexity,
                "choose s": both["choose"],
                "signals s": both["signals"],
                "exponent": {kind: round(exponent(tokens, both[kind]), 2) for kind in kinds},
                "last doubling": {kind: round(exponent(tokens[-2:], both[kind][-2:]), 2) for kind in kinds},
            }
        )
    return {"visual tokens": tokens, "kept": preset.growth_kept, "rounds": preset.growth[0].rounds, "rows": rows}


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Least-squares slope of the logarithm of time over that of size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def compare_loops(preset: Preset) -> dict[str, Any]:
    """Batched loops against loops over samples."""
    loops, rows = preset.loops, []
    generator = torch.Generator(preset.device).manual_seed(0)
    for width in loops.widths:
        for batch in loops.batches:
            shape = (batch, loops.tokens, width)
            points = torch.randn(shape, generator=generator, device=preset.device)
            relevance = torch.rand(shape[:2], generator=generator, device=preset.device)
            for method, variants in LOOPS.items():
                calls = {name: partial(call, points, relevance, loops.kept) for name, call in variants.items()}
                times = time_rounds(calls, preset.device, loops.rounds)
                # All tokens of a step are looked at one by one, so a few steps of one sample tell the rest.
                times["tokens"] = [batch * loops.kept / TOKEN_STEPS * value for value in times["tokens"]]
                row = {"method": method, "batch": batch, "width": width}
                row |= {"ours s": float(f"{median(times['ours']):.4g}")}
                row |= {name: ratio(times[name], times["ours"]) for name in variants if name != "ours"}
                rows.append(row)
        print(f"loops: width {width} done", flush=True)
    return {"visual tokens": loops.tokens, "kept": loops.kept, "rounds": loops.rounds, "rows": rows}


# Loops over samples, to compare with. All pick what the batched ones pick.


def batched_farthest(points: Tensor, relevance: Tensor, steps: int) -> Tensor:
    valid = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    unit = unit_rows(points, valid)
    return farthest_points(unit, seed_gaps(unit, valid), steps)


def sample_farthest(points: Tensor, relevance: Tensor, steps: int) -> Tensor:
    """All distances of a sample, and in every step the minimum over the rows of all picks; a list of picks."""
    picks = []
    for sample in points:
        apart = _distances(sample)
        picked = [int(_nearest_other(apart).argmax())]
        while len(picked) < steps:
            gaps = apart[picked].amin(dim=0)
            gaps[picked] = -torch.inf
            picked.append(int(gaps.argmax().item()))
        picks.append(picked)
    return torch.tensor(picks)


def running_farthest(points: Tensor, relevance: Tensor, steps: int) -> Tensor:
    """All distances of a sample, and a minimum that every pick lowers; a list of picks."""
    picks = []
    for sample in points:
        apart = _distances(sample)
        picked = [int(_nearest_other(apart).argmax())]
        gaps = apart[picked[0]].clone()
        while len(picked) < steps:
            gaps[picked[-1]] = -torch.inf
            picked.append(int(gaps.argmax().item()))
            gaps = torch.minimum(gaps, apart[picked[-1]])
        picks.append(picked)
    return torch.tensor(picks)


def token_farthest(points: Tensor, relevance: Tensor, steps: int) -> list[int]:
    """Token after token within every step, without a matrix; the first sample only, from token 0, a few steps."""
    unit = normalize(points[0], dim=-1)
    gaps, picked = [float("inf")] * len(unit), [0]
    for _ in range(min(steps, TOKEN_STEPS)):
        newest, best = unit[picked[-1]], -1
        for token, row in enumerate(unit):
            gaps[token] = min(gaps[token], (row - newest).norm().item())
            if token not in picked and (best < 0 or gaps[token] > gaps[best]):
                best = token
        picked.append(best)
    return picked


def batched_dpp(points: Tensor, relevance: Tensor, steps: int) -> Tensor:
    return greedy_dpp(points, relevance, torch.ones(points.shape[:2], dtype=torch.bool, device=points.device), steps)


def sample_dpp(points: Tensor, relevance: Tensor, steps: int) -> Tensor:
    """The kernel of a sample, and a Cholesky factor of the picks that grows by a row per step; a list of picks."""
    picks = []
    for sample, weight in zip(points, relevance, strict=True):
        unit = normalize(sample, dim=-1)
        kernel = weight[:, None] * (unit @ unit.T) * weight
        gains, factor, picked = kernel.diagonal().clone(), kernel.new_zeros(steps, len(sample)), list[int]()
        for step in range(steps):
            pick = int(gains.argmax().item())
            picked.append(pick)
            row = (kernel[pick] - factor[:step, pick] @ factor[:step]) / gains[pick].sqrt()
            factor[step] = row
            gains = gains - row.square()
            gains[picked] = -torch.inf
        picks.append(picked)
    return torch.tensor(picks)


def token_dpp(points: Tensor, relevance: Tensor, steps: int) -> list[int]:
    """Token after token within every step, without a kernel; the first sample only, a few steps."""
    unit, weight = normalize(points[0], dim=-1), relevance[0].square().tolist()
    outside, basis, picked = [1.0] * len(unit), list[Tensor](), list[int]()
    for _ in range(min(steps, TOKEN_STEPS)):
        best = -1
        for token in range(len(unit)):
            if token not in picked and (best < 0 or weight[token] * outside[token] > weight[best] * outside[best]):
                best = token
        picked.append(best)
        fresh = unit[best]
        for known in basis:
            fresh = fresh - (fresh @ known) * known
        basis.append(normalize(fresh, dim=0))
        for token, row in enumerate(unit):
            outside[token] -= (row @ basis[-1]).item() ** 2
    return picked


def _distances(sample: Tensor) -> Tensor:
    """``1 - cos`` of all pairs."""
    unit = normalize(sample, dim=-1)
    return 1 - unit @ unit.T


def _nearest_other(apart: Tensor) -> Tensor:
    return apart.clone().fill_diagonal_(torch.inf).amin(dim=1)


LOOPS: dict[str, dict[str, Callable[[Tensor, Tensor, int], Any]]] = {
    "farthest points": {
        "ours": batched_farthest,
        "samples": sample_farthest,
        "samples, running minimum": running_farthest,
        "tokens": token_farthest,
    },
    "DPP": {"ours": batched_dpp, "samples": sample_dpp, "tokens": token_dpp},
}
"""Loops by method; ``ours`` first, the others are compared with it."""


# The page


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Markdown tables by name."""
    return {
        "overhead": overhead_table(results["overhead"]),
        "growth": growth_table(results["growth"]),
        "loops": loops_table(results["loops"]["rows"]),
    }


def overhead_table(parts: Sequence[dict[str, Any]]) -> str:
    """Rows of selectors; per number of tokens choosing alone, and with its signals."""
    head, cells = ["selector"], [["prefill, s"], ["prefill against itself"]]
    for part in parts:
        head += [f"N = {part['visual tokens']}: choose", "with signals"]
        cells[0] += [f"{part['prefill s']:.3g}", ""]
        cells[1] += [interval(part["stock against itself"]), ""]
    for rows in zip(*(part["rows"] for part in parts), strict=True):
        line = [rows[0]["selector"]]
        for row in rows:
            if row["choose"] is None:
                line += [row["reason"], ""]
            else:
                line += [percent(row["choose"]["value"]), percent(row["choose"]["value"] + row["signals"]["value"])]
        cells.append(line)
    return table(head, cells)


def growth_table(growth: dict[str, Any]) -> str:
    """Exponents beside what a selector says of itself."""
    sizes = growth["visual tokens"]
    head = ["selector", "complexity", f"choose, ms at {sizes[0]} / {sizes[-1]}", "exponent of choose", "last doubling"]
    head += ["exponent with signals", "last doubling"]
    cells = []
    for row in growth["rows"]:
        ends = [1e3 * row["choose s"][place] for place in (0, -1)]
        cells.append([row["selector"], row["complexity"], " / ".join(f"{value:.3g}" for value in ends)])
        cells[-1] += [f"{row[key][kind]:.2f}" for kind in ("choose", "both") for key in ("exponent", "last doubling")]
    return table(head, cells)


def loops_table(rows: Sequence[dict[str, Any]]) -> str:
    """How many times longer each loop takes than ours."""
    others = [name for variants in LOOPS.values() for name in variants if name != "ours"]
    others = list(dict.fromkeys(others))
    cells = [
        [row["method"], str(row["batch"]), str(row["width"]), f"{1e3 * row['ours s']:.0f}"]
        + [interval(row[name]) if name in row else "" for name in others]
        for row in rows
    ]
    return table(["loop", "batch", "width", "ours, ms", *others], cells)


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def interval(values: dict[str, float]) -> str:
    """A ratio with its interval, if it has one."""
    if "low" not in values:
        return f"{values['value']:.3g}"
    return f"{values['value']:.3g} [{values['low']:.3g}, {values['high']:.3g}]"


if __name__ == "__main__":
    main()

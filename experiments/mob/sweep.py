"""All settings of MoB on the same samples: layers before the cut run once, those after it once per setting."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vispco.engine import Replay, observed_attention
from vispco.evaluation import Evaluator, TeacherBatch
from vispco.evaluation.prompts import END, NOTHING
from vispco.schedule import keep_counts
from vispco.selectors import Choice, make_selector
from vispco.selectors.mob import coupling, coverage

CUT = 2


@dataclass(frozen=True)
class Sweep:
    """What settings do to samples; arrays of shape (settings, samples) unless said otherwise.

    Attributes
    ----------
    eta : ndarray, shape (samples,)
        Coupling of visual tokens and question at the cut.
    kl, score
        As of :class:`vispco.evaluation.Quality`.
    change
        Length of the change of the first answer token's logits, over the length of the unpruned ones.
    prompt, visual
        The covering radii ``e_p`` and ``e_v`` of what was kept.
    """

    eta: np.ndarray
    kl: np.ndarray
    score: np.ndarray
    change: np.ndarray
    prompt: np.ndarray
    visual: np.ndarray


def sweep(base: Evaluator, settings: Sequence[tuple[float, dict[str, Any]]]) -> Sweep:
    """Measure settings, pairs of a keep ratio and parameters of ``mob``."""
    own = base.share("mob")
    selectors = [make_selector("mob", params) for _, params in settings]
    parts = []
    with observed_attention(own.replay.family), torch.no_grad():
        for batch in own.batches:
            parts.append(_batch(own.replay, batch, [ratio for ratio, _ in settings], selectors))
    return Sweep(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts], axis=-1)
            for field in fields(Sweep)
        }
    )


def _batch(replay: Replay, batch: TeacherBatch, ratios: list[float], selectors: list[Any]) -> Sweep:
    captured = batch.captured
    prefill, hidden = replay.start(captured), captured.hidden
    for layer in range(CUT):
        prefill, hidden = prefill.enter(layer, prefill.counts, hidden, captured.arguments[layer])
        hidden = replay.layer(layer, hidden, prefill, captured)
    inputs = prefill.inputs(CUT, hidden, captured.arguments[CUT])

    def finish(counts: Tensor, choice: Choice | None) -> Tensor:
        """Logits of the answer's rows."""
        state, after = prefill.enter(CUT, counts, hidden, captured.arguments[CUT], choice)
        after = replay.layer(CUT, after, state, captured)
        for layer in range(CUT + 1, replay.layers):
            state, after = state.enter(layer, counts, after, captured.arguments[layer])
            after = replay.layer(layer, after, state, captured)
        return replay.logits(after, state, batch.rows)

    whole = finish(prefill.counts, None)[:, 0].double()
    found: dict[str, list[Tensor]] = {name: [] for name in ("kl", "score", "change", "prompt", "visual")}
    for ratio, selector in zip(ratios, selectors, strict=True):
        counts = keep_counts((ratio,), prefill.counts, prefill.floor)[0]
        chosen = selector.choose(inputs, counts)
        logits = finish(counts, Choice(chosen))
        prompt, visual = coverage(inputs, chosen)
        found["kl"].append(batch.divergence(logits))
        found["score"].append(right(logits, batch.targets, replay.model))
        found["change"].append((logits[:, 0].double() - whole).norm(dim=1) / whole.norm(dim=1))
        found["prompt"].append(prompt)
        found["visual"].append(visual)
    arrays = {name: torch.stack(values).double().numpy() for name, values in found.items()}
    return Sweep(eta=coupling(inputs).double().numpy(), **arrays)


def right(logits: Tensor, targets: Tensor, model: Any) -> Tensor:
    """Whether every greedy token is the answer's, and the text then ends; shape (batch,), bool."""
    said, stop = logits.argmax(dim=-1), model.generation_config.eos_token_id
    stops = torch.tensor([stop] if isinstance(stop, int) else list(stop))
    fits = torch.where(targets == END, torch.isin(said, stops), said == targets)
    return (fits | (targets == NOTHING)).all(dim=1)

"""``predictor.safetensors``: what a learned search knows about budgets that nobody asked for yet."""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, JsonValue
from safetensors import safe_open
from safetensors.torch import save
from transformers import CONFIG_MAPPING

from vispco.cli.job import Outcome
from vispco.config import ModelCard, PruningConfig
from vispco.cost import LatencyTable, Workload, make_cost
from vispco.engine.locating import first_line
from vispco.errors import BudgetError, RunError
from vispco.kernels import make_kernel
from vispco.runs import RunSettings
from vispco.search import Answers, Predictor
from vispco.selectors import make_selector

FILE = "predictor.safetensors"
HEADER = "vispco"
"""Key of the JSON among the file's metadata."""


class _Record(BaseModel):
    """What the tensors of a predictor are for."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: ModelCard
    decoder: dict[str, Any]
    selector: str
    selector_params: dict[str, JsonValue]
    kernel: str
    steps: int
    knobs: tuple[str, ...]
    cost: str
    limits: dict[str, float]
    tokens: list[tuple[int, ...]]
    dtype: str
    new_tokens: int
    table: LatencyTable | None
    provenance: dict[str, JsonValue]


def predictor_file(settings: RunSettings, outcome: Outcome, run: str) -> bytes | None:
    """The file's content, if the main search trained a predictor; its features of prompts stay behind."""
    answers = outcome.found[0].answers
    if answers is None:
        return None
    record = _Record(
        model=outcome.card,
        decoder=outcome.model.config.to_dict(),
        selector=settings.selector.name,
        selector_params=settings.selector.params,
        kernel=settings.kernel.name,
        steps=settings.kernel.steps,
        knobs=answers.knobs,
        cost=answers.cost.name,
        limits=settings.budget.limits,
        tokens=answers.cost.tokens,
        dtype=str(outcome.model.dtype).removeprefix("torch."),
        new_tokens=settings.cost.new_tokens,
        table=outcome.table,
        provenance={
            "run": run,
            "method": outcome.found[0].method,
            "seed": settings.seed,
            "measured": False,
            "cost": answers.cost.name,
        },
    )
    tensors = {name: value.contiguous() for name, value in answers.predictor.state_dict().items()}
    return save(tensors, {HEADER: record.model_dump_json()})


def predict(run: Path, budget: float, cost: str | None = None) -> PruningConfig:
    """The configuration that a run's predictor gives for any budget; it has not been measured.

    Raises
    ------
    RunError
        If the run has no predictor, its file cannot be used, or its budgets are of another cost.
    BudgetError
        If the budget is outside those that it was trained for.
    """
    record, answers = _read(run / FILE)
    if cost not in (None, record.cost):
        raise RunError(f"the predictor of {run} knows budgets of {record.cost}, not of {cost}; leave --cost out")
    low, high = answers.predictor.budgets.min().item(), answers.predictor.budgets.max().item()
    if not low - 1e-6 <= budget <= high + 1e-6:
        raise BudgetError(
            f"budget {budget:g} is outside what the predictor of {run} was trained for; choose one in {low:g}..{high:g}"
        )
    keep, knobs = answers.at(budget)
    return PruningConfig(
        selector=record.selector,
        selector_params={**record.selector_params, **knobs},
        keep=keep,
        model=record.model,
        budget=budget,
        costs={each.name: each.exact(keep) for each in (answers.cost, *answers.cost.limits)},
        provenance={**record.provenance, "cost": record.cost},
    )


def _read(path: Path) -> tuple[_Record, Answers]:
    try:
        with safe_open(path, "pt") as file:
            record = _Record.model_validate(json.loads((file.metadata() or {})[HEADER]))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if not all(value.isfinite().all() for value in state.values()):
            raise ValueError("its numbers are not finite")
        kernel = make_kernel(record.kernel, record.model.layers, record.steps)
        config = CONFIG_MAPPING[record.decoder["model_type"]].from_dict(record.decoder)
        selector = make_selector(record.selector, record.selector_params)
        work = Workload(
            config, record.tokens, getattr(torch, record.dtype), record.selector, selector.flops, record.new_tokens,
            record.table,
        )  # fmt: skip
        limits = {make_cost(name, work): limit for name, limit in record.limits.items()}
        cost = make_cost(record.cost, work).within(limits)
        features = state["inner.weight"].shape[1] - 1
        predictor = Predictor(state["budgets"], state["starts"], state["rates"], features)
        predictor.load_state_dict(state)
    except FileNotFoundError:
        raise RunError(f"{path.parent} has no predictor; search with search=learned search.predictor=true") from None
    except Exception as error:  # of the file system, safetensors, pydantic, a model's configuration, ours
        raise RunError(
            f"{path}: not a predictor that this version can read ({first_line(error)}); run the search again"
        ) from None
    return record, Answers(predictor, kernel, cost, record.knobs)

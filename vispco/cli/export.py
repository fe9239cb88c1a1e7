"""``vispco export``: one configuration out of a finished run."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vispco.cli.finished import read_finished
from vispco.cli.predicting import predict
from vispco.config import PruningConfig
from vispco.errors import BudgetError, ConfigError, RunError
from vispco.runs import RunFolder
from vispco.saying import as_line
from vispco.selectors import make_selector


def best_within(configs: Sequence[PruningConfig], budget: float, cost: str = "flops") -> PruningConfig:
    """The configuration with the least search-split KL among those whose exact cost is within ``budget``.

    Raises
    ------
    BudgetError
        With the cheapest one there is.
    RunError
        If the run does not know that cost, or a configuration was never held against the unpruned model.
    """
    known = sorted(set.intersection(*(set(config.costs) for config in configs)))
    if cost not in known:
        raise RunError(f"cost {cost!r} is not known in this run; choose one of {', '.join(known)}")
    allowed = [config for config in configs if config.costs[cost] <= budget]
    if not 0.0 < budget <= 1.0 or not allowed:
        least = min(config.costs[cost] for config in configs)
        raise BudgetError(f"budget {budget:g} of {cost} is outside what this run reached; choose one in {least:.3f}..1")
    if not all("kl" in config.quality for config in allowed):
        raise RunError("a configuration of this run has no quality 'kl' to choose by; run the search again")
    best = min(allowed, key=lambda config: config.quality["kl"])
    return best.model_copy(update={"budget": budget, "provenance": {**best.provenance, "cost": cost}})


def read_configs(folder: RunFolder) -> list[PruningConfig]:
    """The configurations of a run's frontier.

    Raises
    ------
    RunError
        If the run has none.
    ConfigError
        If one cannot be used, with the file, its number (from 1) and the field.
    """
    entries = read_finished(folder).configs
    if not entries:
        raise RunError(f"{folder.frontier}: holds no configurations; run the search again")
    found = []
    for number, entry in enumerate(entries, start=1):
        try:
            found.append(PruningConfig.from_data(entry))
        except ConfigError as error:
            raise ConfigError(f"{folder.frontier}, configuration {number}: {error}; run the search again") from None
    return found


def export(arguments: Sequence[str]) -> None:
    """Parse the arguments and write the file."""
    parser = argparse.ArgumentParser(prog="vispco export", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished search")
    parser.add_argument("--budget", type=float, required=True, help="allowed fraction of the unpruned model's cost")
    parser.add_argument("--cost", help="cost that the budget is of; that of the run's budgets if not given")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--predict",
        action="store_true",
        help="ask the run's predictor for a schedule of just this budget, which has not been measured",
    )
    parser.add_argument(
        "--project-to-input",
        metavar="SELECTOR",
        help="reduce the schedule to one ratio before the first layer, where SELECTOR chooses",
    )
    options = parser.parse_args(arguments)
    if options.predict:
        config = predict(options.run, options.budget, options.cost)
    else:
        folder = RunFolder(options.run)
        cost = options.cost or read_finished(folder).cost
        config = best_within(read_configs(folder), options.budget, cost)
    if options.project_to_input is not None:
        projection = config.project_to_input(selector=options.project_to_input)
        make_selector(projection.config.selector, projection.config.selector_params)
        projection.config.save(options.output)
        said = f"keep {projection.ratio:g} before the first layer, not measured. {projection.loses}"
        print(as_line(f"{options.output}: {said}"))
        return
    config.save(options.output)
    cost, measured = str(config.provenance["cost"]), ", not measured" if options.predict else ""
    said = f"{config.costs[cost]:.3f} of the unpruned {cost}, keep {list(config.keep)}{measured}"
    print(as_line(f"{options.output}: {said}"))

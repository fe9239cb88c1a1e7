"""The program: ``vispco VERB``."""

import sys
from collections.abc import Callable, Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from transformers.utils import logging

from vispco import parallel
from vispco.cli.bench import run_bench
from vispco.cli.compare import compare
from vispco.cli.environment import finish_output, refusal
from vispco.cli.eval import evaluate
from vispco.cli.export import export
from vispco.cli.models import models
from vispco.cli.profile import profile
from vispco.cli.reproduce import reproduce
from vispco.cli.search import search
from vispco.cli.selectors import selectors
from vispco.errors import DifferenceError, InputError, LostError, ParallelError
from vispco.saying import as_line

VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "search": search,
    "compare": compare,
    "export": export,
    "reproduce": reproduce,
    "eval": evaluate,
    "bench": run_bench,
    "profile": profile,
    "models": models,
    "selectors": selectors,
}

USAGE = """usage: vispco VERB ...

  vispco profile [-o latency.json] [overrides]   measure times on this device; what budgets can be met
  vispco search [overrides]                      learn a frontier, verify it, write a run folder
  vispco compare RUN [RUN ...] [-o PLOT]         overlay the frontiers of several runs
  vispco export RUN --budget 0.5 -o best.json    write the best configuration within a budget
  vispco reproduce RUN [--all] [-o JSON]         measure again what a run exported, hold it against the record
  vispco eval best.json [overrides]              task scores of one configuration, by `generate`
  vispco bench best.json [-o JSON] [overrides]   time, memory and energy of one configuration against the stock model
  vispco models                                  models that can be pruned, what is refused and why
  vispco selectors                               methods that choose tokens, what each needs, and its knobs

`vispco search --help` lists the configuration groups, `vispco search --cfg job` the composed configuration."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns
    -------
    int
        Exit code: 0 done, 2 the input is wrong (one line, no traceback), 1 a fault of ours, or a run that is not
        reproduced.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if words[0] not in VERBS:
        return _refuse(f"verb {words[0]!r} is unknown; choose one of {', '.join(VERBS)}")
    # Our own bars and our one line of refusal are what this program prints.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with parallel.joined():
            return _run(words[0], words[1:])
    except ParallelError as error:
        return _refuse(str(error))


def _run(verb: str, arguments: Sequence[str]) -> int:
    try:
        if parallel.size() > 1 and verb != "search":
            raise ParallelError(f"`vispco {verb}` works in one process; start it without torchrun")
        VERBS[verb](arguments)
        finish_output()
    except (InputError, HydraException, OmegaConfBaseException) as error:
        return _refuse(str(error))
    except (LostError, DifferenceError) as error:
        return _refuse(str(error), code=1)
    except KeyboardInterrupt:
        return _refuse("interrupted; what was found so far is in the run folder, and the same command goes on with it")
    except Exception as error:
        line = refusal(error)
        if line is None:
            raise
        return _refuse(line)
    return 0


def _refuse(message: str, code: int = 2) -> int:
    if parallel.has_to_say():
        print("vispco:", as_line(message), file=sys.stderr)
    return code

"""What the results of a search depend on: two processes that agree in it may go on with each other's work."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import vispco
from vispco.evaluation import Provenance
from vispco.evaluation.cache import model_facts
from vispco.runs import RunSettings

SETTINGS = ("selector", "kernel", "cost", "budget", "search", "baseline", "seed")


def facts_of(settings: RunSettings, model: Any, searching: Provenance, reporting: Provenance) -> dict[str, str]:
    """Names and values, as :meth:`vispco.state.State.check` wants them.

    The machine is none of them: a search may go on elsewhere, where results are the same up to rounding.
    """
    plain = settings.model_dump(mode="json")
    return {
        "vispco": f"{vispco.__version__}, code {_code()}",
        **model_facts(model),
        "dtype": searching.dtype,
        "prompt": searching.prompt,
        "data of the search split": searching.data,
        "data of the report split": reporting.data,
        **{name: json.dumps(plain[name], sort_keys=True) for name in SETTINGS},
    }


@cache
def _code() -> str:
    """Digest of the package's source: a version number does not tell of local changes."""
    home = Path(vispco.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(home.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(home)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]

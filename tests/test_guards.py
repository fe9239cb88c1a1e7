"""The conformance suites guard themselves: whatever is registered without an entry in its matrix turns a test red."""

import importlib.util
from pathlib import Path

import pytest

from vispco.cli import VERBS
from vispco.cost.registry import REGISTRY as COSTS
from vispco.data.readers import REGISTRY as READERS
from vispco.data.scorers import REGISTRY as SCORERS
from vispco.engine.families import REGISTRY as FAMILIES
from vispco.kernels import REGISTRY as KERNELS
from vispco.selectors import REGISTRY as SELECTORS

SUITES = {
    "selectors": (SELECTORS, "testing/test_conformance.py::test_every_family_and_selector_has_an_entry"),
    "families": (FAMILIES, "testing/test_conformance.py::test_every_family_and_selector_has_an_entry"),
    "kernels": (KERNELS, "kernels/test_conformance.py::test_matrix_covers_the_registry"),
    "published kernels": (KERNELS, "kernels/test_published.py::test_every_kernel_is_in_the_table"),
    "scorers": (SCORERS, "data/scorers/test_cases.py::test_every_scorer_has_cases"),
    "readers": (READERS, "data/readers/test_conformance.py::test_every_reader_is_covered"),
    "costs": (COSTS, "cost/test_flops.py::test_every_cost_is_covered"),
    "verbs": (VERBS, "cli/test_documents.py::test_documented_commands_exist"),
}
"""Registries, and the test that has to notice an entry that nothing covers."""


@pytest.mark.parametrize("suite", SUITES)
def test_an_entry_without_coverage_is_noticed(suite, monkeypatch):
    registry, test = SUITES[suite]
    file, name = test.split("::")
    spec = importlib.util.spec_from_file_location("guarding", Path(__file__).parent / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    guard = getattr(module, name)
    guard()
    with monkeypatch.context() as patch:
        patch.setitem(registry, "new", next(iter(registry.values())))
        with pytest.raises(AssertionError):
            guard()
    monkeypatch.delitem(registry, next(reversed(registry)))  # it comes back as the last one, as it was
    with pytest.raises(AssertionError):
        guard()

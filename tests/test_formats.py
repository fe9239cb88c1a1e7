"""Files of earlier releases open for ever: `formats/` holds one of every version, and none of them is changed again."""

import re
from pathlib import Path

import pytest

from vispco.config import PruningConfig
from vispco.cost import LatencyTable
from vispco.frontier import read_points

FORMATS = Path(__file__).parent / "formats"
MAJOR = {"config": PruningConfig, "latency": LatencyTable}


@pytest.mark.parametrize("path", sorted(FORMATS.glob("config-*.json")), ids=lambda path: path.name)
def test_a_configuration(path):
    config = PruningConfig.load(path)
    assert (config.selector, config.selector_params, config.budget) == ("balanced_fastv", {"alpha": 0.33}, 0.5)
    assert config.keep == (1.0, 1.0, 0.5, 0.125)
    assert (config.model.type, config.model.layers, config.model.name) == ("llava", 4, "größe")
    assert (config.costs, config.quality) == ({"flops": 0.43}, {"score": 0.9})
    assert config.provenance["run"] == "runs/a"


@pytest.mark.parametrize("path", sorted(FORMATS.glob("latency-*.json")), ids=lambda path: path.name)
def test_a_latency_table(path):
    table = LatencyTable.load(path)
    assert (table.key.device, table.key.batch, table.layers) == ("a device", 2, (0, 0))
    assert table.kinds[0].whole.seconds == (0.001, 0.002)
    assert table.selector("fastv").cut == (1e-6, 2e-6, 3e-6, 4e-9, 0.0)


@pytest.mark.parametrize("path", sorted(FORMATS.glob("points-*.jsonl")), ids=lambda path: path.name)
def test_points(path):
    first, second = read_points(path)
    assert (first.name, first.method, first.keep) == ("learned b=0.50", "learned", (1.0, 1.0, 0.5, 0.125))
    assert (first.costs, first.quality, first.slices) == ({"flops": 0.43}, {"score": 0.9, "kl": 0.02}, {"count": 0.75})
    assert (first.split, first.seed, first.samples, first.budget) == ("report", 0, 64, 0.5)
    assert (first.backend, first.dtype, first.model, first.prompt) == ("sdpa", "float32", "m1", "p1")
    assert second.budget is None


@pytest.mark.parametrize(("kind", "document"), MAJOR.items())
def test_every_version_has_a_file(kind, document):
    """A release that writes another version adds a file of it."""
    versions = {re.search(r"-(\d+\.\d+)\.json", path.name)[1] for path in FORMATS.glob(f"{kind}-*.json")}
    assert document.VERSION in versions

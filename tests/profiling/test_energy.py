"""Energy counters, on folders and a library that stand in for a machine's."""

import sys
from types import SimpleNamespace

import pytest
import torch

from vispco.profiling import energy
from vispco.profiling.energy import find_meter, joules


def write_zone(root, name, kind, microjoules, most=1000):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (folder / file).write_text(f"{content}\n")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    return tmp_path


def test_packages_are_added_up_and_their_parts_are_not(root):
    write_zone(root, "intel-rapl:0", "package-0", 100)
    write_zone(root, "intel-rapl:1", "package-1", 500)
    write_zone(root, "intel-rapl:0:0", "core", 70)
    write_zone(root, "intel-rapl:2", "psys", 900)
    meter, source = find_meter("cpu")
    assert "other processes" in source
    before = meter.read()
    for name, kind, now in (("0", "package-0", 400), ("1", "package-1", 700), ("0:0", "core", 990), ("2", "psys", 0)):
        write_zone(root, f"intel-rapl:{name}", kind, now)
    assert meter.read() - before == pytest.approx(500e-6)


def test_a_counter_that_wrapped_around_goes_on(root):
    write_zone(root, "intel-rapl:0", "package-0", 900)
    meter, _ = find_meter("cpu")
    write_zone(root, "intel-rapl:0", "package-0", 100)
    assert meter.read() == pytest.approx(200e-6)
    write_zone(root, "intel-rapl:0", "package-0", 150)
    assert meter.read() == pytest.approx(250e-6)


def test_a_machine_without_counters_says_so(root):
    assert find_meter("cpu") == (None, "this machine has no RAPL")
    write_zone(root, "intel-rapl:0", "package-0", "not a number")
    meter, why = find_meter("cpu")
    assert meter is None
    assert why.startswith("RAPL cannot be read")


class NVMLError(Exception):
    pass


def stand_in(monkeypatch, readings):
    """``pynvml`` that knows one GPU."""

    def handle(name):
        if name != "GPU-f00":
            raise NVMLError("no such GPU")
        return name

    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(readings),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)


def test_a_gpu_is_found_by_its_identity_and_counts_millijoules(monkeypatch):
    stand_in(monkeypatch, iter([0, 5000, 7500]))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="f00"))
    meter, source = find_meter("cuda")
    assert source == "NVML, the whole GPU"
    assert [meter.read(), meter.read()] == [5.0, 7.5]


def test_a_gpu_without_a_counter_says_so(monkeypatch):
    stand_in(monkeypatch, iter(()))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="bad"))
    assert find_meter("cuda") == (None, "NVML gives no energy (no such GPU)")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_meter("cuda") == (None, "pynvml is not installed")


def test_joules_are_the_mean_over_the_calls_of_a_window(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(energy.time, "perf_counter", lambda: float(next(clock)))
    calls = []
    meter = SimpleNamespace(read=lambda: 10.0 + 3.0 * len(calls))
    assert joules(lambda: calls.append(1), meter, "cpu", window=3.0) == 3.0
    assert len(calls) == 3  # after 1, 2 and 3 seconds
    assert joules(lambda: calls.append(1), meter, "cpu", window=0.0) == 3.0
    assert len(calls) == 4

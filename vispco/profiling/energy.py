"""Energy, where the device reports it: NVML's counter of a GPU, RAPL's of a CPU."""

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from vispco.profiling.pairs import wait_for

RAPL = Path("/sys/class/powercap")

WINDOW = 2.0
"""Seconds that calls are repeated for at least: counters move in steps of up to a tenth of a second."""


class Meter(Protocol):
    """A counter of joules.

    Attributes
    ----------
    name : str
        What is counted, and whose energy that is.
    """

    name: str

    def read(self) -> float:
        """Joules since some moment in the past."""


class Rapl:
    """All CPU packages, through Linux's powercap; whatever else runs on them is counted too.

    Parameters
    ----------
    zones : sequence of Path
        Folders with ``energy_uj`` and ``max_energy_range_uj``, in microjoules.
    """

    name = "RAPL, all CPU packages, other processes included"

    def __init__(self, zones: Sequence[Path]):
        self._zones = list(zones)
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = self._counters()
        self._total = 0

    def read(self) -> float:
        """Joules since the first reading; a counter that wrapped around once in between is put right."""
        now = self._counters()
        for before, after, size in zip(self._last, now, self._ranges, strict=True):
            self._total += after - before if after >= before else after - before + size
        self._last = now
        return self._total / 1e6

    def _counters(self) -> list[int]:
        return [_number(zone / "energy_uj") for zone in self._zones]


class Nvml:
    """The current GPU, through NVML's counter of total energy.

    Parameters
    ----------
    library : module
        ``pynvml``.
    """

    name = "NVML, the whole GPU"

    def __init__(self, library: Any):
        self._library = library
        library.nvmlInit()
        # By its identity: NVML does not know which GPUs a process is allowed to see.
        self._handle = library.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties('cuda').uuid}")
        self.read()

    def read(self) -> float:
        """Joules since the driver was loaded."""
        return float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


def find_meter(device: str) -> tuple[Meter | None, str]:
    """The counter of a device, and its name; or None, and why there is none."""
    return _find_nvml() if device == "cuda" else _find_rapl()


def _find_nvml() -> tuple[Meter | None, str]:
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return None, "pynvml is not installed"
    try:
        meter = Nvml(library)
    except library.NVMLError as error:
        return None, f"NVML gives no energy ({error})"
    return meter, meter.name


def _find_rapl() -> tuple[Meter | None, str]:
    try:
        # Of zones within zones only the outer ones count: a package's energy has that of its cores in it.
        outer = RAPL.glob("intel-rapl:*")
        zones = sorted(zone for zone in outer if (zone / "name").read_text().startswith("package"))
        meter = Rapl(zones)
    except (OSError, ValueError) as error:
        return None, f"RAPL cannot be read ({getattr(error, 'strerror', None) or error})"
    return (meter, meter.name) if zones else (None, "this machine has no RAPL")


def joules(call: Callable[[], Any], meter: Meter, device: str, window: float = WINDOW) -> float:
    """Joules of one call, mean over as many as fill ``window`` seconds; what a device needs when idle is in it."""
    wait_for(device)
    start, before, calls = time.perf_counter(), meter.read(), 0
    while not calls or time.perf_counter() - start < window:
        call()
        wait_for(device)
        calls += 1
    return (meter.read() - before) / calls


def _number(path: Path) -> int:
    return int(path.read_text())

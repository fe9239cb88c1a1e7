"""Time and memory of prefill and decoding, measured."""

from vispco.profiling.bench import WARM_UP, Bench, Choosing, Compared, bench
from vispco.profiling.calibration import calibrate, calibrate_for, table_key
from vispco.profiling.generation import Generated, time_generation
from vispco.profiling.memory import LiveBytes, peak_bytes
from vispco.profiling.pairs import (
    Forward,
    Pairs,
    Side,
    Times,
    bootstrap_median,
    clocks,
    read_clocks,
    seconds,
    since,
    time_pairs,
    time_rounds,
    wait_for,
)

__all__ = [
    "WARM_UP",
    "Bench",
    "Choosing",
    "Compared",
    "Forward",
    "Generated",
    "LiveBytes",
    "Pairs",
    "Side",
    "Times",
    "bench",
    "bootstrap_median",
    "calibrate",
    "calibrate_for",
    "clocks",
    "peak_bytes",
    "read_clocks",
    "seconds",
    "since",
    "table_key",
    "time_generation",
    "time_pairs",
    "time_rounds",
    "wait_for",
]

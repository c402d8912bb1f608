"""The verdicts of `headrace doctor`: pure functions from what the ranks measured to a line of the report.

Each says what was measured, the bound that it is held against and, where it is broken, which ranks and what to do. A
list over the ranks is in the order of the ranks.
"""

from pipeline.doctor.checks.cache import CacheFolder, check_cache
from pipeline.doctor.checks.machine import (
    SHARED_BOUND_S,
    check_clocks,
    check_devices,
    check_disk_space,
    check_disk_speed,
    check_memory,
    check_notice,
    check_ranks,
    check_versions,
)
from pipeline.doctor.checks.network import (
    Timed,
    Traffic,
    bus_bandwidth,
    check_bandwidth,
    check_slowest,
    step_traffic_s,
)
from pipeline.doctor.checks.remote import Visit, check_remote, check_remote_speed
from pipeline.doctor.checks.state import (
    Difference,
    RoundTrip,
    check_gradients,
    check_round_trip,
    check_streams,
    gradient_bound,
)
from pipeline.doctor.checks.verdict import (
    Check,
    broken,
    skipped,
    standing,
)

__all__ = [
    "SHARED_BOUND_S",
    "CacheFolder",
    "Check",
    "Difference",
    "RoundTrip",
    "Timed",
    "Traffic",
    "Visit",
    "broken",
    "bus_bandwidth",
    "check_bandwidth",
    "check_cache",
    "check_clocks",
    "check_devices",
    "check_disk_space",
    "check_disk_speed",
    "check_gradients",
    "check_memory",
    "check_notice",
    "check_ranks",
    "check_remote",
    "check_remote_speed",
    "check_round_trip",
    "check_slowest",
    "check_streams",
    "check_versions",
    "gradient_bound",
    "skipped",
    "standing",
    "step_traffic_s",
]

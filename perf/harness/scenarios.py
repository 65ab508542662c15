"""The table of scenarios: which wire, which data, how often."""
from dataclasses import dataclass

# File bytes per second that QUIC can bring over the `gbe` wire: 10^9 bit/s × 1472/1538 of UDP payload, less the
# packets' headers and tags. TCP's is 117.7 MB/s.
GBE_BYTES_PER_SECOND = 116.8e6


@dataclass(frozen=True)
class Scenario:
    name: str
    wire: tuple          # arguments of perf/lab up
    data: str            # a name of data.MAKERS
    repeats: int = 1     # copies per run: many for what is over in milliseconds
    wire_bytes_per_second: float | None = None
    # A memory-only program has nothing to do with many files.
    files: bool = False

    @property
    def mode(self):
        return self.wire[0]


SCENARIOS = {scenario.name: scenario for scenario in (
    Scenario("gbe-bulk", ("gbe",), "1GiB", wire_bytes_per_second=GBE_BYTES_PER_SECOND),
    Scenario("nic-bulk", ("nic",), "1GiB"),
    Scenario("raw-bulk", ("raw",), "1GiB"),
    Scenario("jumbo-bulk", ("jumbo",), "1GiB"),
    Scenario("gbe-loss-0.1", ("gbe", "loss=0.1"), "256MiB"),
    Scenario("gbe-loss-1", ("gbe", "loss=1"), "256MiB"),
    Scenario("gbe-queue-64kB", ("gbe", "queue=64000"), "1GiB"),
    Scenario("gbe-small", ("gbe",), "10000x4KiB", files=True, wire_bytes_per_second=GBE_BYTES_PER_SECOND),
    Scenario("raw-small", ("raw",), "10000x4KiB", files=True),
    Scenario("raw-tree", ("raw",), "100000x1KiB", files=True),
    Scenario("gbe-source-tree", ("gbe",), "source-tree", files=True, wire_bytes_per_second=GBE_BYTES_PER_SECOND),
    Scenario("gbe-tiny", ("gbe",), "1KiB", repeats=40, files=True),
)}

"""The table of scenarios: which wire, which data, how often, by how many at once."""
from dataclasses import dataclass

# File bytes per second that QUIC can bring over the `gbe` wire: 10^9 bit/s × 1472/1538 of UDP payload, less the
# packets' headers and tags. TCP's is 117.7 MB/s.
GBE_BYTES_PER_SECOND = 116.8e6


@dataclass(frozen=True)
class Scenario:
    name: str
    wire: tuple               # arguments of perf/lab up
    data: str | None = None   # a name of data.MAKERS
    # What a run does, a name of measures.MEASURES.
    measure: str = "copies"
    repeats: int = 1          # copies per run: many for what is over in milliseconds
    clients: int = 1          # at once, each with data of its own
    sessions: int = 0         # that the clients' identities hold open besides, and idle
    rival: str | None = None  # the congestion control of a TCP flow that shares the wire
    path: tuple = ()          # arguments of the link emulator, if the wire is to be a long one
    link_bytes_per_second: float | None = None   # what a path or wire can carry, to say how near a run came
    # Nothing for a program that only moves memory.
    files: bool = False
    # Names of programs; None: whoever can.
    only: tuple | None = None
    # Of one run, start and comparison included; what perf/run estimates its duration by.
    typical_seconds: float = 5

    @property
    def mode(self):
        return self.wire[0]


LANDRO = ("landro", "landro-poll")
EACH_KIND = (*LANDRO, "landro-quic", "landro-tls", "landro-clear")

SCENARIOS = {scenario.name: scenario for scenario in (
    Scenario("gbe-bulk", ("gbe",), "1GiB", link_bytes_per_second=GBE_BYTES_PER_SECOND, typical_seconds=11),
    Scenario("nic-bulk", ("nic",), "1GiB", typical_seconds=4),
    Scenario("raw-bulk", ("raw",), "1GiB", typical_seconds=3),
    Scenario("jumbo-bulk", ("jumbo",), "1GiB", typical_seconds=3),
    Scenario("gbe-loss-0.1", ("gbe", "loss=0.1"), "256MiB", typical_seconds=4),
    Scenario("gbe-loss-1", ("gbe", "loss=1"), "256MiB", typical_seconds=6),
    Scenario("gbe-queue-64kB", ("gbe", "queue=64000"), "1GiB", typical_seconds=12),
    Scenario("gbe-small", ("gbe",), "10000x4KiB", files=True, link_bytes_per_second=GBE_BYTES_PER_SECOND,
             typical_seconds=3),
    Scenario("raw-small", ("raw",), "10000x4KiB", files=True, typical_seconds=3),
    Scenario("raw-tree", ("raw",), "100000x1KiB", files=True, typical_seconds=15),
    Scenario("gbe-source-tree", ("gbe",), "source-tree", files=True, link_bytes_per_second=GBE_BYTES_PER_SECOND,
             typical_seconds=25),
    Scenario("gbe-tiny", ("gbe",), "1KiB", repeats=40, files=True, typical_seconds=6),
    Scenario("gbe-latency", ("gbe",), "1KiB", measure="latency", files=True, typical_seconds=3),
    Scenario("gbe-two", ("gbe",), "512MiB", clients=2, files=True, typical_seconds=11),
    Scenario("gbe-rival-cubic", ("gbe",), "512MiB", measure="rivals", rival="cubic", files=True, only=LANDRO,
             typical_seconds=11),
    Scenario("gbe-rival-bbr", ("gbe",), "512MiB", measure="rivals", rival="bbr", files=True, only=LANDRO,
             typical_seconds=11),
    Scenario("gbe-100-clients", ("gbe",), "10MiB", clients=100, files=True, typical_seconds=20),
    Scenario("gbe-150-clients", ("gbe",), "4MiB", clients=150, files=True, only=EACH_KIND, typical_seconds=8),
    # A way there and back of 100 and of 50 ms.
    Scenario("100M-100ms-loss-0.1", ("raw",), "128MiB", path=("--rate", "100M", "--delay", "50ms", "--loss", "0.1"),
             files=True, only=LANDRO, link_bytes_per_second=100e6 / 8, typical_seconds=14),
    Scenario("500M-50ms-loss-1", ("raw",), "256MiB", path=("--rate", "500M", "--delay", "25ms", "--loss", "1"),
             files=True, only=LANDRO, link_bytes_per_second=500e6 / 8, typical_seconds=7),
    Scenario("raw-idle", ("raw",), measure="idle", only=LANDRO, typical_seconds=12),
    # A daemon lets one identity have only a part of its connections.
    Scenario("raw-1000-idle", ("raw",), "1KiB", measure="idle_sessions", clients=8, sessions=1000, files=True,
             only=LANDRO, typical_seconds=15),
)}

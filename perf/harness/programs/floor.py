"""What quiche itself can do here: perf/floor on both ends, one file on one connection by plain system calls."""
import os
import re

from ..cargo import cargo, released
from ..hosts import ROOT
from .base import Program

PORT = 4435


class QuicheBare(Program):
    """The yardstick: landro's speed on different machines compares as a share of this one's."""
    transport = "quic"
    many_clients = False
    needs = ("taskset",)

    def __init__(self, hash=False):
        self.name = "quiche-bare-hash" if hash else "quiche-bare"
        self.protection = "TLS 1.3, BLAKE3" if hash else "TLS 1.3"
        self.options = ["--hash"] if hash else []
        self.binary = released("landro-floor")

    def install(self):
        self.built = os.path.isdir(os.path.join(ROOT, "perf", "floor")) \
            and cargo("build", "--release", "--locked", "--package", "landro-floor")

    def missing(self):
        return super().missing() if self.built else "perf/floor does not build, or is not part of this tree"

    def pinned(self, core, *arguments):
        """On a core of its own, as a daemon's threads are."""
        return {"argv": ["taskset", "--cpu-list", str(core), self.binary, *arguments, *self.options]}

    def refuses(self, scenario):
        if not scenario.name.endswith("-bulk"):
            return "is a yardstick for bulk alone"
        return super().refuses(scenario)

    def version(self):
        with open(os.path.join(ROOT, "Cargo.lock")) as lock:
            return "quiche " + re.search(r'name = "quiche"\nversion = "(.+)"', lock.read()).group(1)

    def server(self, bench):
        listen = f"{bench.hosts.b.address}:{PORT}"
        return (self.pinned(max(os.sched_getaffinity(0)), "serve", "--listen", listen, "--root", bench.served),
                {"ready_line": r"^listening on \S+$"})

    def client(self, bench, data):
        address = "{}:{}".format(*bench.dial(PORT))
        return self.pinned(min(os.sched_getaffinity(0)), "send", address, data.path, data.name)

    def retransmitted(self, done):
        again, sent = re.search(r"(\d+) of (\d+) packets sent again", done["stdout"]).groups()
        return int(again) / int(sent)

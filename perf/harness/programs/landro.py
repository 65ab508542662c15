"""landro itself, on either backend and over each kind of lane."""
import json
import os
import subprocess
import time

from ..cargo import build_landro, released
from .base import Program, first_number

LATENCY_SECONDS = 2
# A file that was written less than 3 s ago is not remembered (docs/adr/0044).
OLD_SECONDS = 4.5


class Landro(Program):
    transport = "quic"
    port = 4433
    protection = "TLS 1.3, BLAKE3"

    def __init__(self, binary, name="landro", *options):
        """`binary`: None for the one of this tree, which is then built. `options`: of daemon and command."""
        self.builds = binary is None
        self.binary = binary or released("landro")
        self.name = name
        self.options = options or ("--backend", "io_uring")

    def install(self):
        self.built = not self.builds or build_landro()

    def missing(self):
        if not self.built:
            return "scripts/release.sh failed; its messages are above"
        return None if os.access(self.binary, os.X_OK) else f"{self.binary} is no program"

    def version(self):
        return first_number(self.binary, "--version")

    def environment(self, bench, who):
        return {"LANDRO_CONFIG_DIR": bench.directory(f"{self.name}-{who}")}

    def client_id(self, bench, number):
        return subprocess.run([self.binary, "id"], env=dict(os.environ, **self.environment(bench, number)),
                              stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def place(self, bench):
        """What the daemon serves, where it listens, and where it is found."""
        return bench.served, bench.hosts.b.address, bench.dial(self.port)

    def server(self, bench):
        # Several clients stand for several hosts, each with an identity of its own.
        allowed = [word for number in range(bench.scenario.clients)
                   for word in ("--allow", self.client_id(bench, number))]
        directory, address, _ = self.place(bench)
        argv = [self.binary, "serve", directory, "--listen", f"{address}:{self.port}", *allowed, *self.options]
        if bench.scenario.sessions:
            # They have nothing to do, which a daemon is patient with only if it is told to be.
            argv += ["--timeout", "0"]
        return {"argv": argv, "env": self.environment(bench, "server")}, {"ready_line": r"^listening on \S+ id \S+"}

    def url(self, bench, path=""):
        return "landro://{}:{}/{}".format(*self.place(bench)[2], path)

    def command(self, bench, number, name, *arguments):
        """A subcommand of client `number`."""
        server_id = self.running["line"].split()[-1]
        return {"argv": [self.binary, name, "--json", "--peer", server_id, *self.options, *arguments],
                "env": self.environment(bench, number)}

    def client(self, bench, data):
        return self.command(bench, data.number, "cp", "--stats", data.path, self.url(bench))

    def holds(self, bench):
        """Arguments of perf/holder: the daemon, and whom it lets in."""
        identities = [os.path.join(self.environment(bench, number)["LANDRO_CONFIG_DIR"], "identity.pem")
                      for number in range(bench.scenario.clients)]
        return ["--to", "{}:{}".format(*bench.dial(self.port)), "--peer", self.running["line"].split()[-1],
                *(word for identity in identities for word in ("--identity", identity))]

    def latency(self, bench, data):
        asking = self.command(bench, data.number, "bench", "--latency", "--size", str(data.bytes),
                              "--seconds", str(LATENCY_SECONDS), self.url(bench))
        done = bench.hosts.a.run(asking)["commands"][0]
        found = json.loads(done["stdout"].splitlines()[-1])["latency"]
        return {"requests": found["count"], "p50_seconds": found["p50_us"] / 1e6, "p99_seconds": found["p99_us"] / 1e6}

    def retransmitted(self, done):
        stats = json.loads(done["stdout"].splitlines()[-1])["stats"]
        # Packets sent are counted of QUIC alone, and those sent again of TCP, too.
        is_quic = stats["quic"]["lanes"] == stats["lanes"]
        return stats["retransmitted_packets"] / stats["sent_packets"] if is_quic and stats["sent_packets"] else None


class LandroClear(Landro):
    """The bulk goes in the clear, and control over what `options` have it go."""
    protection = "BLAKE3"

    def server(self, bench):
        served, ready = super().server(bench)
        # Full rights are `--allow`'s to give; this one is not.
        lines = (f"{self.client_id(bench, number)} rw,clear\n" for number in range(bench.scenario.clients))
        bench.file(os.path.join(f"{self.name}-server", "authorized_peers"), "".join(lines))
        served["argv"].append("--allow-clear")
        return served, ready

    def client(self, bench, data):
        return self.command(bench, data.number, "cp", "--stats", "--clear", data.path, self.url(bench))


class LandroKept(LandroClear):
    """Fetched from a daemon on host a that has hashed it before, and need not see it again."""
    pulls = True

    def place(self, bench):
        address = bench.hosts.a.address
        return bench.sources, address, (address, self.port)

    def server(self, bench):
        served, ready = super().server(bench)
        served["argv"] += ["--digest-cache", bench.directory(f"{self.name}-digests")]
        return served, ready

    def client(self, bench, data):
        return self.command(bench, data.number, "cp", "--stats", "--clear", self.url(bench, data.name), bench.served)

    def start(self, bench):
        super().start(bench)
        # Remembered is only what is old.
        time.sleep(OLD_SECONDS)
        bench.hosts.b.run(*(self.client(bench, data) for data in bench.data.values()))
        return self.running

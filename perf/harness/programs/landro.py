"""landro itself, on either backend."""
import json
import os
import subprocess

from ..cargo import cargo, released
from .base import Program, first_number


class Landro(Program):
    transport = "quic"
    port = 4433
    protection = "TLS 1.3, BLAKE3"

    def __init__(self, binary, name="landro", backend="io_uring"):
        """`binary`: None for the one of this tree, which is then built."""
        self.builds = binary is None
        self.binary = binary or released("landro")
        self.name = name
        self.options = ["--backend", backend]

    def install(self):
        self.built = not self.builds or cargo("build", "--release", "--locked")

    def missing(self):
        if not self.built:
            return "cargo build --release --locked failed; its messages are above"
        return None if os.access(self.binary, os.X_OK) else f"{self.binary} is no program"

    def version(self):
        return first_number(self.binary, "--version")

    def environment(self, bench, who):
        return {"LANDRO_CONFIG_DIR": bench.directory(f"{self.name}-{who}")}

    def client_id(self, bench, number):
        return subprocess.run([self.binary, "id"], env=dict(os.environ, **self.environment(bench, number)),
                              stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def server(self, bench):
        # Several clients stand for several hosts, each with an identity of its own.
        allowed = [word for number in range(bench.scenario.clients)
                   for word in ("--allow", self.client_id(bench, number))]
        argv = [self.binary, "serve", bench.served, "--listen", f"{bench.hosts.b.address}:{self.port}",
                *allowed, *self.options]
        return {"argv": argv, "env": self.environment(bench, "server")}, {"ready_line": r"^listening on \S+ id \S+"}

    def client(self, bench, data):
        server_id = self.running["line"].split()[-1]
        argv = [self.binary, "cp", "--json", "--stats", "--peer", server_id, *self.options,
                data.path, "landro://{}:{}/".format(*bench.dial(self.port))]
        return {"argv": argv, "env": self.environment(bench, data.number)}

    def retransmitted(self, done):
        stats = json.loads(done["stdout"].splitlines()[-1])["stats"]
        return stats["retransmitted_packets"] / stats["sent_packets"]

"""landro itself, on either backend."""
import json
import os
import subprocess

from .base import Program, first_number

PORT = 4433


class Landro(Program):
    transport = "quic"
    protection = "TLS 1.3, BLAKE3"

    def __init__(self, binary, name="landro", backend="io_uring"):
        self.binary = binary
        self.name = name
        self.options = ["--backend", backend]

    def missing(self):
        return None if os.access(self.binary, os.X_OK) else f"{self.binary} does not exist; cargo build --release"

    def version(self):
        return first_number(self.binary, "--version")

    def environment(self, bench, side):
        return {"LANDRO_CONFIG_DIR": bench.directory(f"{self.name}-{side}")}

    def prepare(self, bench):
        self.client_id = subprocess.run([self.binary, "id"], env=dict(os.environ, **self.environment(bench, "client")),
                                        stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def server(self, bench):
        argv = [self.binary, "serve", bench.served, "--listen", f"{bench.hosts.b.address}:{PORT}",
                "--allow", self.client_id, *self.options]
        return {"argv": argv, "env": self.environment(bench, "server")}, {"ready_line": r"^listening on \S+ id \S+"}

    def client(self, bench, data):
        server_id = self.running["line"].split()[-1]
        argv = [self.binary, "cp", "--json", "--stats", "--peer", server_id, *self.options,
                data.path, f"landro://{bench.hosts.b.address}:{PORT}/"]
        return {"argv": argv, "env": self.environment(bench, "client")}

    def retransmitted(self, done):
        stats = json.loads(done["stdout"].splitlines()[-1])["stats"]
        return stats["retransmitted_packets"] / stats["sent_packets"]

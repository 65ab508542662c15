"""rsync's own daemon: plain TCP, nothing protected."""
from .base import Program, first_number

PORT = 8730


class RsyncDaemon(Program):
    name = "rsync-daemon"
    needs = ("rsync",)

    def version(self):
        return first_number("rsync", "--version")

    def prepare(self, bench):
        self.config = bench.file("rsyncd.conf", f"""\
port = {PORT}
address = {bench.hosts.b.address}
use chroot = no
[served]
path = {bench.served}
read only = no
uid = root
gid = root
""")

    def server(self, bench):
        return {"argv": ["rsync", "--daemon", "--no-detach", f"--config={self.config}"]}, {"ready_port": PORT}

    def client(self, bench, data):
        return {"argv": ["rsync", "-a", data.path, f"rsync://{bench.hosts.b.address}:{PORT}/served/"]}

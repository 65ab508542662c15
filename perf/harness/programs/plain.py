"""Programs without encryption: cp on one host (what the machine gives without any wire) and iperf3."""
import json

from .base import Outcome, Program, first_number

IPERF_PORT = 5201


class LocalCopy(Program):
    """Absolute times of virtual machines drift from hour to hour; this one shows by how much."""
    name = "cp"
    transport = "none"
    many_clients = False
    needs = ("cp",)

    def version(self):
        return first_number("cp", "--version")

    def client(self, bench, data):
        return {"argv": ["cp", "-r", data.path, bench.served]}


class Iperf3(Program):
    """Memory to memory over one TCP connection: what the wire and the kernel give."""
    name = "iperf3"
    writes_files = False
    many_clients = False
    needs = ("iperf3",)

    def version(self):
        return first_number("iperf3", "--version")

    def server(self, bench):
        return ({"argv": ["iperf3", "--server", "--bind", bench.hosts.b.address, "--port", str(IPERF_PORT), "--forceflush"]},
                {"ready_line": "Server listening"})

    def client(self, bench, data, congestion="cubic"):
        return {"argv": ["iperf3", "--client", bench.hosts.b.address, "--port", str(IPERF_PORT),
                         "--congestion", congestion, "--bytes", str(data.bytes), "--json"]}

    def transfer(self, bench, parts, beside=()):
        done = bench.hosts.a.run(*(self.client(bench, data) for data in parts), *beside)["commands"][0]
        # Its own clock: the process also waits for the two sides' reports.
        seconds = json.loads(done["stdout"])["end"]["sum_received"]["seconds"]
        return Outcome(seconds, {"a": done["peak_rss_bytes"] or 0})

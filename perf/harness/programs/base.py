"""What a program is to the harness: a server, a copying command, and what it says about itself."""
import re
import shutil
import subprocess
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What one copy gave. The peaks are those the kernel reported for the client's side."""
    seconds: float
    peak_rss_bytes: dict = field(default_factory=dict)
    retransmitted_share: float | None = None


class Program:
    name = ""
    transport = "tcp"        # whose retransmissions count
    protection = "none"      # what the bytes are protected by on the wire
    pulls = False            # the server runs on host a and the client on host b fetches
    writes_files = True      # False: memory to memory
    needs = ()               # commands that must exist

    def install(self):
        """Brings what scripts/setup.sh does not."""

    def missing(self):
        """Why it cannot run here, or None."""
        absent = [command for command in self.needs if not shutil.which(command)]
        return f"{', '.join(absent)} not installed" if absent else None

    def refuses(self, scenario):
        """Why it cannot do this scenario, or None."""
        return "moves memory, not files" if scenario.files and not self.writes_files else None

    def version(self):
        raise NotImplementedError

    def prepare(self, bench):
        """Keys and configuration, once."""

    def server(self, bench):
        """(command, what shows that it is ready), or None."""
        return None

    def client(self, bench, data):
        """The command that copies data.path to bench.served."""
        raise NotImplementedError

    def hosts(self, bench):
        """(the client's, the server's)"""
        return (bench.hosts.b, bench.hosts.a) if self.pulls else (bench.hosts.a, bench.hosts.b)

    def start(self, bench):
        self.running = None
        server = self.server(bench)
        if server:
            command, ready = server
            self.running = self.hosts(bench)[1].start(command, **ready)
        return self.running

    def stop(self, bench):
        if self.running:
            self.hosts(bench)[1].stop(self.running["pid"])

    def transfer(self, bench, data):
        """The timed part."""
        host = self.hosts(bench)[0]
        answer = host.run(self.client(bench, data))
        done = answer["commands"][0]
        return Outcome(answer["seconds"], {host.side: done["peak_rss_bytes"] or 0}, self.retransmitted(done))

    def retransmitted(self, done):
        """The share of packets sent again, if the client tells."""
        return None


def first_number(*argv):
    """The version out of what a program prints about itself."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(r"\d+\.\d+[\w.+-]*", done.stdout)
    return found.group(0) if found else "unknown"

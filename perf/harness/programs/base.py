"""What a program is to the harness: a server, a copying command, and what it says about itself."""
import re
import shutil
import subprocess
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What a copy gave, or several at once. The peaks are those the kernel reported for the client's side."""
    seconds: float
    peak_rss_bytes: dict = field(default_factory=dict)
    retransmitted_share: float | None = None
    each_seconds: list = field(default_factory=list)


class Program:
    name = ""
    transport = "tcp"        # whose retransmissions count
    protection = "none"      # what the bytes are protected by on the wire
    pulls = False            # the server runs on host a and the client on host b fetches
    writes_files = True      # False: memory to memory
    many_clients = True      # several at once are something it is made for
    needs = ()               # commands that must exist

    def install(self):
        """Brings what scripts/setup.sh does not."""

    def missing(self):
        """Why it cannot run here, or None."""
        absent = [command for command in self.needs if not shutil.which(command)]
        return f"{', '.join(absent)} not installed" if absent else None

    def refuses(self, scenario):
        """Why it cannot do this scenario, or None."""
        if scenario.files and not self.writes_files:
            return "moves memory, not files"
        if scenario.clients > 1 and not self.many_clients:
            return "is for one transfer at a time"
        if scenario.measure == "latency" and not hasattr(self, "latency"):
            return "has no requests to answer on a connection that stays"
        return None

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

    def transfer(self, bench, parts, beside=()):
        """The timed part: one client for each of `parts`, all at once, and with them the commands `beside`."""
        host = self.hosts(bench)[0]
        answer = host.run(*(self.client(bench, data) for data in parts), *beside)
        done = answer["commands"][:len(parts)]
        shares = [self.retransmitted(one) for one in done]
        return Outcome(answer["seconds"], {host.side: max(one["peak_rss_bytes"] or 0 for one in done)},
                       None if None in shares else sum(shares) / len(shares),
                       [one["seconds"] for one in answer["commands"]])

    def retransmitted(self, done):
        """The share of packets sent again, if the client tells."""
        return None


def first_number(*argv):
    """The version out of what a program prints about itself."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(r"\d+\.\d+[\w.+-]*", done.stdout)
    return found.group(0) if found else "unknown"

"""Idle sessions between the hosts: what perf/holder keeps open with a landro daemon, and what it says of them."""
import json
import os

from .cargo import cargo, released
from .hosts import ROOT, HostError

BINARY = released("landro-holder")
# A core does thousands of handshakes a second. Longer than a daemon's own patience with each.
OPEN_SECONDS = 30


def build():
    """Why there is none, or None."""
    if not os.path.isdir(os.path.join(ROOT, "perf", "holder")):
        return "perf/holder is not part of this tree"
    return None if cargo("build", "--release", "--locked", "--package", "landro-holder") else "it does not build"


class Holder:
    """Within `with`, so many sessions are open and idle. `report` afterwards; one that is missing is an error."""

    def __init__(self, bench, program, sessions):
        self.host = bench.hosts.a
        self.sessions = sessions
        self.command = {"argv": [BINARY, "--sessions", str(sessions), *program.holds(bench)]}
        self.report = None

    def __enter__(self):
        self.pid = self.host.start(self.command, timeout_seconds=OPEN_SECONDS, ready_line=r"^holding \d+$")["pid"]
        return self

    def __exit__(self, kind, *_):
        # Its last act is to have the daemon finish every session.
        ended = self.host.stop(self.pid)
        if kind:
            return
        try:
            self.report = json.loads(ended["stdout"].splitlines()[-1])
        except (IndexError, ValueError):
            raise HostError(f"the holder left no report: {(ended['stderr'] or ended['stdout']).strip()[-300:]}") from None
        if self.report["finished"] != self.sessions:
            raise HostError(f"{self.report['finished']} of {self.sessions} sessions were there to the end; "
                            f"lost: {self.report['lost']}")

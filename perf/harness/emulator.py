"""The link emulator between the hosts: a long path where the wire is a short one. It relays UDP from host a to b."""
import contextlib
import json
import os
import subprocess

from .cargo import cargo, released
from .hosts import LAB, ROOT, HostError

BINARY = released("landro-emulator")
PORT = 4434
# A fixed one: runs differ by what the programs do, not by which packets are lost first.
SEED = 1


def build():
    """Why there is none, or None."""
    if not os.path.isdir(os.path.join(ROOT, "perf", "emulator")):
        return "perf/emulator is not part of this tree"
    return None if cargo("build", "--release", "--locked", "--package", "landro-emulator") else "it does not build"


@contextlib.contextmanager
def between(bench, options, port):
    """Within it, `bench.dial(port)` leads through the emulator. Gives a dictionary that has its report in the end."""
    listen, target = f"{bench.hosts.a.address}:{PORT}", f"{bench.hosts.b.address}:{port}"
    # Outside the host's cgroup: its work is the path's, not the sender's. `perf/lab down` ends it if we cannot.
    process = subprocess.Popen(
        [LAB, "a", BINARY, "--listen", listen, "--to", target, "--seed", str(SEED), *options], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    report = {}
    try:
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise HostError(f"the link emulator did not start: {line}{process.stdout.read()}".strip())
        bench.through = (bench.hosts.a.address, PORT)
        yield report
    finally:
        bench.through = None
        process.terminate()
        said = process.communicate()[0].splitlines()
    try:
        report.update(json.loads(said[-1]))
    except (IndexError, ValueError):
        raise HostError(f"the link emulator left no report: {' '.join(said)[-300:]}") from None

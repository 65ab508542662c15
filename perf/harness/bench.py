"""One run of one program in one scenario: a fresh server, timed and measured copies, each verified."""
import os
import shutil
import signal
import statistics
import tempfile

from .data import Data, difference
from .hosts import HostError, Hosts
from .measure import Meter

GB = 1e9


class Mismatch(Exception):
    """What arrived is not what was sent."""


class Bench:
    """The directories, hosts and data that programs work with. A `with` block cleans all of it up."""

    def __init__(self):
        self.work = tempfile.mkdtemp(prefix="landro-perf.", dir="/dev/shm")
        self.sources = self.directory("source")
        self.served = self.directory("served")
        self.hosts = Hosts()
        self.data = {}
        self.scenario = None

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.interrupted)
        return self

    def interrupted(self, number, _frame):
        # Not by an exception: what it would unwind through talks to agents that wait for a transfer.
        self.__exit__()
        os._exit(128 + number)

    def __exit__(self, *_):
        try:
            self.hosts.down()
        finally:
            shutil.rmtree(self.work)

    def directory(self, name):
        path = os.path.join(self.work, name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def file(self, name, text):
        path = os.path.join(self.work, name)
        with open(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
            file.write(text)
        return path

    def make_data(self, name):
        if name not in self.data:
            self.data[name] = Data(name, self.sources)
        return self.data[name]

    def clear_served(self):
        # What is inside only: servers hold a descriptor of the directory itself.
        for entry in os.scandir(self.served):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def run_once(bench, program, scenario):
    """The fields of one record. One that failed has `error` and no figures."""
    bench.scenario = scenario
    data = bench.make_data(scenario.data)
    record = {"direction": "pull" if program.pulls else "push", "protection": program.protection,
              "files": data.files, "bytes": data.bytes, "verified": False}
    try:
        program.start(bench)
        try:
            copies = [copy_once(bench, program, data, sampling=scenario.repeats == 1) for _ in range(scenario.repeats)]
        finally:
            program.stop(bench)
    except (HostError, Mismatch) as error:
        return {**record, "error": str(error)}
    return {**record, "verified": program.writes_files, **figures(copies, data)}


def copy_once(bench, program, data, sampling):
    bench.clear_served()
    with Meter(bench.hosts, sampling) as meter:
        outcome = program.transfer(bench, data)
    found = meter.found
    for role, host in (("sender", bench.hosts.a), ("receiver", bench.hosts.b)):
        found[f"{role}_peak_rss_bytes"] = max(found[f"{role}_peak_rss_bytes"], outcome.peak_rss_bytes.get(host.side, 0))
    share = meter.tcp_retransmitted_share if program.transport == "tcp" else outcome.retransmitted_share
    if program.writes_files:
        wrong = difference(data.path, os.path.join(bench.served, data.name))
        if wrong:
            raise Mismatch(wrong)
    return {"seconds": outcome.seconds, "retransmitted_share": share, **found}


def figures(copies, data):
    seconds = statistics.median(copy["seconds"] for copy in copies)
    found = {"seconds": seconds, "mb_per_second": data.bytes / 1e6 / seconds}
    gigabytes = data.bytes * len(copies) / GB
    for name in copies[0]:
        values = [copy[name] for copy in copies]
        if name.endswith("_peak_rss_bytes") or name.endswith("_peak_pss_bytes"):
            found[name] = max(values)
        elif name.endswith("_seconds"):
            found[name.replace("_seconds", "_s_per_gb")] = sum(values) / gigabytes
    found["retransmitted_share"] = copies[0]["retransmitted_share"] if len(copies) == 1 else None
    if len(copies) > 1:
        found["samples_seconds"] = [copy["seconds"] for copy in copies]
    return found

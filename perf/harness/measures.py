"""One run of one program in one scenario: a fresh server, then what the scenario's `measure` says."""
import os
import statistics
import time
from contextlib import nullcontext

from .data import difference
from .emulator import between
from .holder import Holder
from .hosts import ROOT, HostError
from .measure import PSS_SAMPLE_SECONDS, SAMPLE_SECONDS, Meter, pss_bytes, rss_bytes
from .programs.plain import Iperf3

GB = 1e9
SETTLE_SECONDS = 1
IDLE_SECONDS = 10
# A program that takes so many times the typical duration is stuck.
PATIENCE = 10
LEAST_TIMEOUT_SECONDS = 60


class Mismatch(Exception):
    """What arrived is not what was sent."""


def run_once(bench, program, scenario):
    """The fields of one record. One that failed has `error` and no figures."""
    bench.scenario = scenario
    bench.hosts.limit(max(LEAST_TIMEOUT_SECONDS, round(PATIENCE * scenario.typical_seconds)))
    parts = bench.make_data(scenario)
    record = {"direction": "pull" if program.pulls else "push", "protection": program.protection,
              "clients": scenario.clients, "files": sum(part.files for part in parts),
              "bytes": sum(part.bytes for part in parts), "verified": False}
    try:
        bench.clear_served()
        program.start(bench)
        try:
            with between(bench, scenario.path, program.port) if scenario.path else nullcontext() as report:
                found = MEASURES[scenario.measure](bench, program, scenario, parts)
            if report:
                found["emulator"] = report
        finally:
            program.stop(bench)
    except (HostError, Mismatch) as error:
        # Where the sources lie is nobody's business.
        return {**record, "error": str(error).replace(ROOT + "/", "")}
    return {**record, **found}


def copies(bench, program, scenario, parts):
    """The same copy `repeats` times, by all clients at once."""
    sample_seconds = SAMPLE_SECONDS
    if scenario.repeats > 1:
        sample_seconds = None  # over before it could be sampled
    elif scenario.clients > 2:
        sample_seconds = PSS_SAMPLE_SECONDS  # there may be hundreds of processes to look at
    done = [copy_once(bench, program, parts, sample_seconds) for _ in range(scenario.repeats)]
    found = figures(done, sum(part.bytes for part in parts))
    if scenario.clients == 2:
        found["jain_fairness"] = jain(contended_share(*found["each_seconds"]))
    return {"verified": program.writes_files, **found}


def rivals(bench, program, scenario, parts):
    """A copy that shares the wire with one TCP flow of as many bytes, from memory."""
    flow, (data,) = Iperf3(), parts
    command, ready = flow.server(bench)
    server = bench.hosts.b.start(command, **ready)
    try:
        done = copy_once(bench, program, parts, SAMPLE_SECONDS, [flow.client(bench, data, scenario.rival)])
    finally:
        bench.hosts.b.stop(server["pid"])
    found = figures([done], 2 * data.bytes)
    share = contended_share(*found["each_seconds"])
    return {"verified": program.writes_files, "rival": f"TCP {scenario.rival}", "bytes": 2 * data.bytes, **found,
            "contended_share": share, "jain_fairness": jain(share)}


def idle(bench, program, _scenario, _parts):
    """A server that nobody talks to."""
    host = program.hosts(bench)[1]
    time.sleep(SETTLE_SECONDS)
    cpu = sum(host.cpu_seconds())
    time.sleep(IDLE_SECONDS)
    cpu = sum(host.cpu_seconds()) - cpu
    processes = host.processes()
    return {"seconds": IDLE_SECONDS, "server_cpu_seconds": cpu, "server_rss_bytes": max(map(rss_bytes, processes)),
            "server_pss_bytes": sum(map(pss_bytes, processes))}


def idle_sessions(bench, program, scenario, parts):
    """A server whose many clients have nothing to say, all of them still there in the end. It serves others besides."""
    with Holder(bench, program, scenario.sessions) as holder:
        found = idle(bench, program, scenario, parts)
        copy = copy_once(bench, program, parts, None)
    return {"verified": program.writes_files, "sessions": scenario.sessions, **found, "copies_seconds": copy["seconds"],
            "holder": holder.report}


def latency(bench, program, _scenario, parts):
    """Request and response on a warm connection, one at a time."""
    return {"verified": False, **program.latency(bench, *parts)}


MEASURES = {measure.__name__: measure for measure in (copies, rivals, idle, idle_sessions, latency)}


def copy_once(bench, program, parts, sample_seconds, beside=()):
    bench.clear_served()
    bench.warm(parts)
    with Meter(bench.hosts, sample_seconds) as meter:
        outcome = program.transfer(bench, parts, beside)
    found = meter.found
    for role, host in (("sender", bench.hosts.a), ("receiver", bench.hosts.b)):
        found[f"{role}_peak_rss_bytes"] = max(found[f"{role}_peak_rss_bytes"], outcome.peak_rss_bytes.get(host.side, 0))
    share = meter.tcp_retransmitted_share if program.transport == "tcp" else outcome.retransmitted_share
    if program.writes_files:
        for part in parts:
            wrong = difference(part.path, os.path.join(bench.served, part.name))
            if wrong:
                raise Mismatch(wrong)
    return {"seconds": outcome.seconds, "each_seconds": outcome.each_seconds, "retransmitted_share": share, **found}


def figures(done, bytes_):
    """Of copies of so many bytes each: their median time and what a GB of them cost."""
    seconds = statistics.median(copy["seconds"] for copy in done)
    found = {"seconds": seconds, "mb_per_second": bytes_ / 1e6 / seconds}
    gigabytes = bytes_ * len(done) / GB
    for name in done[0]:
        values = [copy[name] for copy in done]
        if name.endswith(("_peak_rss_bytes", "_peak_pss_bytes")):
            found[name] = max(values)
        elif name.endswith(("_user_seconds", "_system_seconds", "_busy_seconds")):
            found[name.replace("_seconds", "_s_per_gb")] = sum(values) / gigabytes
    found["retransmitted_share"] = done[0]["retransmitted_share"] if len(done) == 1 else None
    if len(done) > 1:
        found["samples_seconds"] = [copy["seconds"] for copy in done]
    elif len(done[0]["each_seconds"]) > 1:
        found["each_seconds"] = done[0]["each_seconds"]
    return found


def contended_share(ours_seconds, theirs_seconds):
    """What the first of two transfers of equal size got of the wire while both ran. The wire being full all the time,
    it carried both in the longer time, and so much of that until the faster one ended that the rest was the other's."""
    fast, slow = sorted((ours_seconds, theirs_seconds))
    share = min(1.0, slow / (2 * fast))
    return share if ours_seconds <= theirs_seconds else 1 - share


def jain(share):
    """Jain's fairness index of two: 1 is equal shares, 0.5 is all for one."""
    return 1 / (2 * (share ** 2 + (1 - share) ** 2))

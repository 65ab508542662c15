"""What a transfer costs: CPU time of each side and of the whole machine, memory, TCP's retransmissions."""
import os
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.05
# The kernel walks a process's mappings for each of these.
PSS_SAMPLE_SECONDS = 0.5


def machine_busy_seconds():
    """Everything the machine did: also interrupts and kernel threads that no process is charged for."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


def memory_field_bytes(pid, file, name):
    """A line `NAME: N kB` of a file of /proc/PID; 0 if the process is gone."""
    try:
        with open(f"/proc/{pid}/{file}") as lines:
            for line in lines:
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def rss_bytes(pid):
    return memory_field_bytes(pid, "status", "VmRSS:")


def rss_peak_bytes(pid):
    return memory_field_bytes(pid, "status", "VmHWM:")


def pss_bytes(pid):
    return memory_field_bytes(pid, "smaps_rollup", "Pss:")


class Memory:
    """Peaks of one side: of its largest process (the kernel's own high-water mark), and of the sum of all."""

    def __init__(self, host):
        self.host = host
        self.peak_rss_bytes = 0
        self.peak_pss_bytes = 0

    def sample(self, with_pss):
        processes = self.host.processes()
        self.peak_rss_bytes = max([self.peak_rss_bytes, *map(rss_peak_bytes, processes)])
        if with_pss:
            self.peak_pss_bytes = max(self.peak_pss_bytes, sum(map(pss_bytes, processes)))


class Meter:
    """Measures from `with` to its end. Samples of memory are taken every so many seconds, or not at all."""

    def __init__(self, hosts, sample_seconds):
        self.hosts = hosts
        self.memory = {host.side: Memory(host) for host in (hosts.a, hosts.b)}
        self.sample_seconds = sample_seconds
        self.stopped = threading.Event()
        self.sampler = threading.Thread(target=self.keep_sampling)

    def __enter__(self):
        self.tcp = self.hosts.a.ask("tcp")
        if self.sample_seconds:
            self.sampler.start()
        self.cpu = {host.side: host.cpu_seconds() for host in (self.hosts.a, self.hosts.b)}
        self.busy = machine_busy_seconds()
        return self

    def keep_sampling(self):
        next_pss = time.monotonic()
        while not self.stopped.wait(self.sample_seconds):
            with_pss = time.monotonic() >= next_pss
            if with_pss:
                next_pss += PSS_SAMPLE_SECONDS
            try:
                for memory in self.memory.values():
                    memory.sample(with_pss)
            except FileNotFoundError:
                return  # the hosts are being taken away: interrupted

    def __exit__(self, *_):
        busy = machine_busy_seconds() - self.busy
        cpu = {host.side: host.cpu_seconds() for host in (self.hosts.a, self.hosts.b)}
        if self.sample_seconds:
            self.stopped.set()
            self.sampler.join()
        for memory in self.memory.values():
            memory.sample(with_pss=True)
        tcp = self.hosts.a.ask("tcp")
        sent = tcp["sent"] - self.tcp["sent"]
        self.found = {"machine_busy_seconds": busy}
        for side, role in (("a", "sender"), ("b", "receiver")):
            for kind, before, after in zip(("user", "system"), self.cpu[side], cpu[side]):
                self.found[f"{role}_{kind}_seconds"] = after - before
            self.found[f"{role}_peak_rss_bytes"] = self.memory[side].peak_rss_bytes
            self.found[f"{role}_peak_pss_bytes"] = self.memory[side].peak_pss_bytes
        self.tcp_retransmitted_share = (tcp["retransmitted"] - self.tcp["retransmitted"]) / sent if sent else None

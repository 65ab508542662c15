"""The host's set-up that a figure depends on: machine, kernel, settings, wire, revision."""
import os
import subprocess

from .hosts import ADDRESS, LAB, ROOT

SYSCTLS = (
    "net/core/rmem_default", "net/core/rmem_max", "net/core/wmem_default", "net/core/wmem_max",
    "net/core/netdev_budget", "net/core/netdev_budget_usecs", "net/core/netdev_max_backlog", "net/core/default_qdisc",
    "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem", "net/ipv4/udp_mem", "kernel/io_uring_disabled", "kernel/perf_event_paranoid",
    "vm/swappiness",
)


def output(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout.strip()


def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


def cpu_model():
    lines = read("/proc/cpuinfo").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), os.uname().machine)


def memory_bytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def vulnerabilities():
    directory = "/sys/devices/system/cpu/vulnerabilities"
    return {name: read(os.path.join(directory, name)) for name in sorted(os.listdir(directory))} \
        if os.path.isdir(directory) else {}


def revision():
    """The commit, and whether the tree differs from it."""
    # Under sudo the tree belongs to somebody else, which git wants to hear is meant.
    git = ("git", "-C", ROOT, "-c", f"safe.directory={ROOT}")
    commit = output(*git, "rev-parse", "--short=12", "HEAD")
    changed = output(*git, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+changes" if changed else "")


def host():
    return {
        "host": os.uname().nodename, "kernel": f"{os.uname().release} {os.uname().version}", "cpu": cpu_model(),
        "cores": os.cpu_count(), "memory_bytes": memory_bytes(), "clocksource": read(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "vulnerabilities": vulnerabilities(),
        "sysctls": {name.replace("/", "."): read(f"/proc/sys/{name}") for name in SYSCTLS},
        "revision": revision(),
    }


def wire():
    """What `perf/lab up` made, on both ends."""
    found = {}
    for side in ADDRESS:
        inside = (LAB, side)
        found[side] = {
            "qdisc": output(*inside, "tc", "qdisc", "show", "dev", f"veth-{side}"),
            "class": output(*inside, "tc", "class", "show", "dev", f"veth-{side}"),
            "link": output(*inside, "ip", "-details", "link", "show", "dev", f"veth-{side}"),
            "ethtool -k": output(*inside, "ethtool", "-k", f"veth-{side}"),
            "tcp_congestion_control": output(*inside, "cat", "/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    return found

"""The two hosts: network namespaces of perf/lab, an agent in each, and a cgroup for each to count its CPU time."""
import json
import os
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LAB = os.path.join(ROOT, "perf", "lab")
AGENT = os.path.join(ROOT, "perf", "harness", "agent.py")
ADDRESS = {"a": "198.18.0.1", "b": "198.18.0.2"}
DEFAULT_TIMEOUT_SECONDS = 600


class HostError(Exception):
    """A namespace, a server or a command did not do what was asked."""


def cgroup_root():
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, where, kind, *_ = line.split()
            if kind == "cgroup2":
                return where
    raise HostError("no cgroup2 file system is mounted, so CPU time cannot be counted; "
                    "mount one: mount -t cgroup2 none /sys/fs/cgroup")


class Host:
    """One end: `a` sends, `b` receives."""

    def __init__(self, side):
        self.side = side
        self.address = ADDRESS[side]
        self.cgroup = os.path.join(cgroup_root(), f"landro-perf-{side}")
        self.agent = None
        self.timeout_seconds = DEFAULT_TIMEOUT_SECONDS

    def open(self):
        self.close()
        os.mkdir(self.cgroup)
        # Its own session: Ctrl-C is for perf/run, which ends the agents when it has put its things away.
        self.agent = subprocess.Popen([LAB, self.side, "/usr/bin/python3", "-ES", AGENT], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        with open(os.path.join(self.cgroup, "cgroup.procs"), "w") as procs:
            procs.write(str(self.agent.pid))
        self.ask("tcp")

    def close(self):
        """Ends everything on this host: also what an earlier run left, if it was killed."""
        if os.path.isdir(self.cgroup):
            with open(os.path.join(self.cgroup, "cgroup.kill"), "w") as kill:
                kill.write("1")
            if self.agent:
                self.agent.wait()
                self.agent = None
            remove_cgroup(self.cgroup)

    def ask(self, op, **request):
        print(json.dumps({"op": op, **request}), file=self.agent.stdin, flush=True)
        line = self.agent.stdout.readline()
        if not line:
            raise HostError(f"the agent on host {self.side} ended; its message is above")
        answer = json.loads(line)
        if "failed" in answer:
            raise HostError(answer["failed"])
        return answer

    def run(self, *commands):
        """Runs commands (dictionaries: argv, env, cwd) at once; raises if one fails."""
        answer = self.ask("run", commands=commands, timeout_seconds=self.timeout_seconds)
        for command, done in zip(commands, answer["commands"]):
            if done["status"] != 0:
                why = "took too long" if answer["timed_out"] else f"ended with {done['status']}"
                said = " | ".join((done["stderr"] or done["stdout"]).strip().splitlines()[-3:])[-600:]
                raise HostError(f"{os.path.basename(command['argv'][0])} {why}: {said}")
        return answer

    def start(self, command, timeout_seconds=10, **ready):
        """Starts a server; ready_line is a regular expression, ready_port a port of this host."""
        if "ready_port" in ready:
            ready["ready_port"] = [self.address, ready["ready_port"]]
        return self.ask("start", timeout_seconds=timeout_seconds, **command, **ready)

    def stop(self, pid):
        return self.ask("stop", pid=pid)

    def processes(self):
        with open(os.path.join(self.cgroup, "cgroup.procs")) as procs:
            return [pid for pid in map(int, procs) if pid != self.agent.pid]

    def cpu_seconds(self):
        """User and system time of everything that ever ran here."""
        with open(os.path.join(self.cgroup, "cpu.stat")) as stat:
            values = dict(line.split() for line in stat)
        return int(values["user_usec"]) / 1e6, int(values["system_usec"]) / 1e6


def remove_cgroup(path):
    deadline = time.monotonic() + 10
    while True:
        try:
            return os.rmdir(path)
        except OSError as error:
            if time.monotonic() > deadline:
                raise HostError(f"{path} still has processes that do not end") from error
            time.sleep(0.01)


def use_cubic():
    """Stock Debian's congestion control for TCP; other kernels default to bbr."""
    # A namespace may take only what the machine allows everybody. Cubic being Debian's default it is allowed there.
    with open("/proc/sys/net/ipv4/tcp_allowed_congestion_control", "r+") as allowed:
        names = allowed.read().split()
        if "cubic" not in names:
            allowed.seek(0)
            allowed.write(" ".join([*names, "cubic"]))
    for side in ADDRESS:
        subprocess.run([LAB, side, "sh", "-c", "echo cubic >/proc/sys/net/ipv4/tcp_congestion_control"], check=True)


class Hosts:
    """Both ends and the wire between them."""

    def __init__(self):
        self.a, self.b = Host("a"), Host("b")
        self.checked = set()

    def limit(self, timeout_seconds):
        """How long a command may take from now on."""
        self.a.timeout_seconds = self.b.timeout_seconds = timeout_seconds

    def up(self, wire):
        """wire: the arguments of `perf/lab up`, such as ["gbe", "loss=1"]."""
        self.close_agents()
        # The lab checks that such a wire is honest, which takes a while: once is enough.
        unchecked = ["unchecked"] if wire[0] in self.checked else []
        done = subprocess.run([LAB, "up", *wire, *unchecked], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise HostError(f"perf/lab up {' '.join(wire)} failed:\n{done.stdout.strip()}")
        self.checked.add(wire[0])
        use_cubic()
        self.a.open()
        self.b.open()
        return done.stdout

    def close_agents(self):
        self.a.close()
        self.b.close()

    def down(self):
        self.close_agents()
        subprocess.run([LAB, "down"], check=True)

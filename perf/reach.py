#!/usr/bin/env python3
"""Measures what the engine is to reach: big files, small files, one tiny file, memory, both backends.

    perf/reach.py [--binary target/release/landro] [--runs 5] [--modes raw,gbe] [--out FILE]

As root: it makes two network namespaces (perf/lab) and takes them away again. Files lie in /dev/shm. Cases are
interleaved; every copy is compared after the clock stopped; each run is one JSON line in --out, medians with min-max
are printed. Absolute times of virtual machines drift, so the same bytes are copied by cp(1) in every round, too.
"""
import argparse, filecmp, json, os, shutil, signal, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
LAB = os.path.join(HERE, "lab")
TICK = os.sysconf("SC_CLK_TCK")


class Daemon:
    """`landro serve` on host b, with its CPU time and memory."""

    def __init__(self, binary, work, backend):
        self.config = os.path.join(work, "server")
        client = subprocess.run([binary, "id"], env=dict(os.environ, LANDRO_CONFIG_DIR=os.path.join(work, "client")),
                                capture_output=True, text=True, check=True).stdout.strip()
        self.root = os.path.join(work, "served")
        self.process = subprocess.Popen(
            [LAB, "b", binary, "serve", self.root, "--listen", "198.18.0.2:4433", "--allow", client,
             "--backend", backend],
            env=dict(os.environ, LANDRO_CONFIG_DIR=self.config), stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            sys.exit("the daemon did not start")

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory_mb(self, field):
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith(field):
                    return int(line.split()[1]) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def same(left, right):
    if os.path.isdir(left):
        found = filecmp.dircmp(left, right)
        return not (found.left_only or found.right_only) and all(
            same(os.path.join(left, n), os.path.join(right, n)) for n in found.common)
    return filecmp.cmp(left, right, shallow=False)


def measure(binary, work, daemon, source, options):
    """One `landro cp` to the daemon: seconds, CPU seconds of both sides, peak memory of both sides."""
    target = os.path.join(daemon.root, os.path.basename(source))
    shutil.rmtree(target, ignore_errors=True)
    if os.path.exists(target):
        os.unlink(target)
    before = daemon.cpu_seconds()
    started = time.monotonic()
    process = subprocess.Popen([LAB, "a", binary, "cp", "--quiet", "--accept-new", *options, source,
                                "landro://198.18.0.2/"], env=dict(os.environ, LANDRO_CONFIG_DIR=os.path.join(work, "client")))
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status != 0:
        sys.exit(f"landro cp failed with {status}")
    daemon_cpu = daemon.cpu_seconds() - before
    if not same(source, target):
        sys.exit(f"{target} differs from {source}")
    return {"seconds": seconds, "client_cpu_seconds": usage.ru_utime + usage.ru_stime, "daemon_cpu_seconds": daemon_cpu,
            "client_peak_mb": usage.ru_maxrss / 1024, "daemon_peak_mb": daemon.memory_mb("VmHWM")}


def copy(work, source):
    target = os.path.join(work, "copied")
    shutil.rmtree(target, ignore_errors=True)
    if os.path.exists(target):
        os.unlink(target)
    started = time.monotonic()
    subprocess.run(["cp", "-r", source, target], check=True)
    return {"seconds": time.monotonic() - started}


def make_sources(work):
    source = os.path.join(work, "source")
    os.makedirs(os.path.join(source, "small"))
    with open(os.path.join(source, "big"), "wb") as big:
        for _ in range(64):
            big.write(os.urandom(16 << 20))
    with open(os.path.join(source, "tiny"), "wb") as tiny:
        tiny.write(os.urandom(1024))
    for directory in range(100):
        path = os.path.join(source, "small", str(directory))
        os.mkdir(path)
        for number in range(100):
            with open(os.path.join(path, str(number)), "wb") as small:
                small.write(os.urandom(4096))
    return {name: os.path.join(source, name) for name in ("big", "small", "tiny")}


def summary(values):
    return f"{statistics.median(values):8.3f}  ({min(values):.3f}-{max(values):.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=os.path.join(HERE, "..", "target", "release", "landro"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--modes", default="raw,gbe")
    parser.add_argument("--out")
    args = parser.parse_args()
    binary = os.path.abspath(args.binary)
    results = []
    work = tempfile.mkdtemp(prefix="landro-reach.", dir="/dev/shm")
    try:
        os.mkdir(os.path.join(work, "served"))
        sources = make_sources(work)
        for mode in args.modes.split(","):
            for run in range(args.runs):
                for case, source in sources.items():
                    results.append({"mode": "local", "program": "cp", "case": case, **copy(work, source)})
                for backend in ("io_uring", "poll"):
                    subprocess.run([LAB, "up", mode], check=True)
                    daemon = Daemon(binary, work, backend)
                    idle = daemon.memory_mb("VmRSS")
                    for case, source in sources.items():
                        found = measure(binary, work, daemon, source, ["--backend", backend])
                        results.append({"mode": mode, "program": f"landro {backend}", "case": case, "run": run,
                                        "daemon_idle_mb": idle, **found})
                    daemon.stop()
    finally:
        subprocess.run([LAB, "down"])
        shutil.rmtree(work)
    if args.out:
        with open(args.out, "a") as out:
            for result in results:
                out.write(json.dumps(result) + "\n")
    print("median (min-max) of", args.runs)
    for key in sorted({(r["mode"], r["case"], r["program"]) for r in results}):
        rows = [r for r in results if (r["mode"], r["case"], r["program"]) == key]
        print(f"{' '.join(key):28}", "seconds", summary([r["seconds"] for r in rows]))
        if key[2] != "cp":
            for field in ("client_cpu_seconds", "daemon_cpu_seconds", "client_peak_mb", "daemon_peak_mb", "daemon_idle_mb"):
                print(f"{'':28} {field:20}", summary([r[field] for r in rows]))


if __name__ == "__main__":
    main()

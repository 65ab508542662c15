"""What programs work with: the two hosts, directories, and the data of the scenario that runs."""
import ctypes
import fcntl
import glob
import os
import shutil
import signal
import tempfile

from .data import Data
from .hosts import HostError, Hosts

SHM = "/dev/shm"
PREFIX = "landro-perf."
LOCK = "/run/landro-perf.lock"
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
# Twice what the largest copy takes with its source. Pages are reported to the host in blocks of 2 MiB.
KEPT_BYTES = 6 << 30
KEPT_STEP_BYTES = 1 << 20
PAGE_REPORTING = "/sys/module/page_reporting"
PUNCH_HOLE = 2 | 1  # FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE (linux/falloc.h)
# The largest set twice, and as much as the programs themselves may take: sendme keeps its own copy of everything.
NEEDED_BYTES = 7 << 30


class Bench:
    """A `with` block cleans all of it up; what an earlier run could not clean up (kill -9) goes at the start."""

    def __init__(self):
        # The namespaces have fixed names, so there is one of these per machine.
        self.lock = open(LOCK, "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another measurement runs on this machine (it holds {LOCK}); wait for its end") from None
        # perf/lab takes the same lock unless who calls it has it (perf/lock.sh).
        os.environ["LANDRO_LAB_LOCKED"] = "yes"
        for left in glob.glob(os.path.join(SHM, PREFIX + "*")):
            if os.lstat(left).st_uid == os.geteuid():
                shutil.rmtree(left)
        free = min(shutil.disk_usage(SHM).free, available_memory_bytes())
        if free < NEEDED_BYTES:
            raise SystemExit(f"{SHM} has room for {free >> 20} MiB, and {NEEDED_BYTES >> 20} are needed; "
                             f"where memory allows it: mount -o remount,size={NEEDED_BYTES >> 30}G {SHM}")
        self.work = tempfile.mkdtemp(prefix=PREFIX, dir=SHM)
        self.sources = self.directory("source")
        self.served = self.directory("served")
        self.keep_memory()
        self.hosts = Hosts()
        self.data = {}
        self.scenario = None
        self.through = None

    def dial(self, port):
        """Where clients on host a find a server on host b: (address, port)."""
        return self.through or (self.hosts.b.address, port)

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.interrupted)
        return self

    def interrupted(self, number, _frame):
        # Not by an exception: what it would unwind through talks to agents that wait for a transfer.
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
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

    def make_data(self, scenario):
        """The scenario's data, one set for each client. Those of other scenarios go: all together are many GB."""
        numbers = [] if scenario.data is None else [None] if scenario.clients == 1 else range(scenario.clients)
        wanted = [(scenario.data, number) for number in numbers]
        for made in [made for made in self.data if made not in wanted]:
            remove(self.data.pop(made).path)
        for missing in [missing for missing in wanted if missing not in self.data]:
            self.data[missing] = Data(*missing, self.sources)
        return [self.data[name] for name in wanted]

    def keep_memory(self):
        """Has the copies' memory stay this machine's while it is free. The host of a virtual machine may take back free
        blocks of 2 MiB and more (free page reporting), again and again within seconds, and the first touch of what it
        took lasts up to eight times as long as a copy, for whoever runs just then. So a page of each MiB is kept: what
        lies between them is free and too small to be taken, and the kernel hands out small blocks first."""
        if not os.path.isdir(PAGE_REPORTING):
            return
        block = memoryview(bytearray(KEPT_STEP_BYTES))
        with open(os.path.join(self.work, "kept"), "wb", buffering=0) as kept:
            for _ in range(0, KEPT_BYTES, KEPT_STEP_BYTES):
                kept.write(block)
            for start in range(0, KEPT_BYTES, KEPT_STEP_BYTES):
                punch_hole(kept.fileno(), start + PAGE_BYTES, KEPT_STEP_BYTES - PAGE_BYTES)

    def warm(self, parts):
        """Touches what the next copy reads, and as much memory as it will fill: a host may also drop its mappings of
        what was not used for long."""
        block = memoryview(bytearray(1 << 20))
        left = sum(part.bytes + part.files * PAGE_BYTES for part in parts)
        with tempfile.TemporaryFile(dir=self.work, buffering=0) as filler:
            while left > 0:
                left -= filler.write(block[:left])
        for part in parts:
            for path in files_below(part.path):
                with open(path, "rb", buffering=0) as file:
                    while file.readinto(block):
                        pass

    def clear_served(self):
        # What is inside only: servers hold a descriptor of the directory itself.
        for entry in os.scandir(self.served):
            remove(entry.path)


def punch_hole(fd, offset, length):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, PUNCH_HOLE, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def files_below(path):
    if os.path.isfile(path):
        yield path
    for directory, _, names in os.walk(path):
        for name in names:
            if os.path.isfile(os.path.join(directory, name)):
                yield os.path.join(directory, name)


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def available_memory_bytes():
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))

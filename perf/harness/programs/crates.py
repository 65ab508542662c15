"""Peers from crates.io: qcp and sendme, built once into target/peers."""
import os
import shutil
import time

from ..cargo import cargo
from ..hosts import ROOT
from .base import Outcome, Program, first_number
from .ssh import SshProgram

PEERS = os.path.join(ROOT, "target", "peers")
PARALLEL = 16


class Crate:
    """A program which cargo installs; `crate` is its name and version."""
    crate = ""

    @property
    def binary(self):
        return os.path.join(PEERS, "bin", self.crate.split("@")[0])

    def install(self):
        if os.path.exists(self.binary):
            return
        print(f"building {self.crate} (once)", flush=True)
        cargo("install", "--quiet", "--locked", "--root", PEERS, self.crate)

    def missing(self):
        if not os.path.exists(self.binary):
            return f"cargo install --locked {self.crate} failed; its messages are above"
        return super().missing()

    def version(self):
        return first_number(self.binary, "--version")


class Qcp(Crate, SshProgram):
    """qcp starts its other side by ssh and then copies by QUIC. It wants to be told the bandwidth of the path."""
    name = "qcp"
    crate = "qcp@0.9.1"
    transport = "quic"
    protection = "TLS 1.3"

    def client(self, bench, data):
        wire = bench.scenario.mode
        bandwidth = "125M" if wire == "gbe" else "2500M"
        recurse = ["--recurse"] if data.is_tree else []
        return {"argv": [self.binary, "--quiet", *recurse, "--rx", bandwidth, "--rtt", "10",
                         "--max-mtu", "8972" if wire == "jumbo" else "1472", "--parallel", str(PARALLEL),
                         "--ssh-config", self.config, "-S", "-F", "-S", self.config,
                         "--remote-qcp-binary", self.binary, data.path, f"receiver:{bench.served}/"],
                # No configuration of the user's.
                "env": {"HOME": bench.directory("qcp")}}


class Sendme(Crate, Program):
    """iroh without relays. There is no daemon: both ends start within the clock, as reading and hashing belongs to it."""
    name = "sendme"
    crate = "sendme@0.37.1"
    transport = "quic"
    protection = "TLS 1.3, BLAKE3"
    many_clients = False
    options = ("--relay", "disabled", "--no-progress")

    def transfer(self, bench, parts, beside=()):
        (data,), sender, receiver = parts, bench.hosts.a, bench.hosts.b
        started = time.monotonic()
        self.running = sender.start(
            {"argv": [self.binary, "send", *self.options, "--ticket-type", "addresses", data.path],
             "cwd": bench.directory("sendme")}, timeout_seconds=60, ready_line=r"sendme receive \S+")
        answer = receiver.run({"argv": [self.binary, "receive", *self.options, self.running["line"].split()[-1]],
                               "cwd": bench.served}, *beside)
        seconds = time.monotonic() - started
        return Outcome(seconds, {"b": answer["commands"][0]["peak_rss_bytes"] or 0})

    def stop(self, bench):
        if self.running:
            bench.hosts.a.stop(self.running["pid"])
            self.running = None
            # Its copy of the files, when it was interrupted.
            shutil.rmtree(bench.directory("sendme"))

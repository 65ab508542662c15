"""Builds with cargo what is measured, as the user who called sudo: root seldom has a Rust of its own."""
import os
import subprocess

from .hosts import ROOT

SETUP = os.path.join(ROOT, "scripts", "setup.sh")


def as_user(*argv):
    """True if it succeeded; its messages go where ours go."""
    user = os.environ.get("SUDO_USER")
    before = ["sudo", "-H", "-u", user, "--"] if user else []
    return subprocess.run([*before, *argv], cwd=ROOT).returncode == 0


def cargo(*arguments):
    """True if it succeeded."""
    # In a shell, for it finds cargo also where rustup puts it and PATH does not lead.
    return as_user("bash", "-c", 'set -e; . "$0"; find_rust; exec cargo "$@"', SETUP, *arguments)


def build_landro():
    """As releases are built. True if it succeeded."""
    return as_user(os.path.join(ROOT, "scripts", "release.sh"))


def released(name):
    """The path of one of our programs."""
    return os.path.join(ROOT, "target", "release", name)

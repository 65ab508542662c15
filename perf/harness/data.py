"""What is copied: files and trees made from a seed, and their comparison."""
import math
import os
import random

SEED = 1
BLOCK_BYTES = 1 << 20


def write_file(path, generator, bytes_):
    with open(path, "wb") as file:
        for start in range(0, bytes_, BLOCK_BYTES):
            file.write(generator.randbytes(min(BLOCK_BYTES, bytes_ - start)))


def single(bytes_):
    def make(path, generator):
        write_file(path, generator, bytes_)
    return make


def tree(directories, files_each, bytes_):
    def make(path, generator):
        for directory in range(directories):
            inside = os.path.join(path, f"{directory:04}")
            os.makedirs(inside)
            for number in range(files_each):
                write_file(os.path.join(inside, f"{number:03}"), generator, bytes_)
    return make


SOURCE_TREE_FILES = 70_000
SOURCE_TREE_BYTES = 1_200_000_000
SOURCE_TREE_FILES_EACH = 16
# Mean over median is exp(sigma^2 / 2): 17 kB over 5 kB, as in the Linux kernel's sources.
SOURCE_TREE_SIGMA = 1.57


def source_tree(path, generator):
    """Many directories three deep, sizes log-normal with a long tail, scaled to the total."""
    sizes = [math.exp(generator.gauss(0, SOURCE_TREE_SIGMA)) for _ in range(SOURCE_TREE_FILES)]
    scale = SOURCE_TREE_BYTES / sum(sizes)
    for number, size in enumerate(sizes):
        directory = number // SOURCE_TREE_FILES_EACH
        inside = os.path.join(path, f"{directory // 400:02}", f"{directory // 20 % 20:02}", f"{directory % 20:02}")
        if number % SOURCE_TREE_FILES_EACH == 0:
            os.makedirs(inside)
        write_file(os.path.join(inside, f"{number:05}.c"), generator, round(size * scale))


MAKERS = {
    "1GiB": single(1 << 30),
    "512MiB": single(512 << 20),
    "256MiB": single(256 << 20),
    "128MiB": single(128 << 20),
    "10MiB": single(10 << 20),
    "4MiB": single(4 << 20),
    "1KiB": single(1 << 10),
    "10000x4KiB": tree(100, 100, 4 << 10),
    "100000x1KiB": tree(1000, 100, 1 << 10),
    "source-tree": source_tree,
}


class Data:
    """A made set: its path, how many files, how many bytes. `number` tells those of several clients apart."""

    def __init__(self, maker, number, directory):
        self.number = number or 0
        self.name = name = maker if number is None else f"{maker}-{number:03}"
        self.path = os.path.join(directory, name)
        # The name is part of the seed: what is in a set does not depend on which others were made before.
        MAKERS[maker](self.path, random.Random(f"{SEED} {name}"))
        self.is_tree = os.path.isdir(self.path)
        # Relative to the directory the set lies in, as both sides name them.
        self.names = [name] if not self.is_tree else [
            os.path.relpath(os.path.join(base, file), directory)
            for base, _, files in os.walk(self.path) for file in files]
        self.files = len(self.names)
        self.bytes = sum(os.path.getsize(os.path.join(directory, file)) for file in self.names)


def same_contents(left, right):
    # Not filecmp: it remembers verdicts by size and time, which copies with kept times share.
    with open(left, "rb") as ours, open(right, "rb") as theirs:
        while True:
            piece = ours.read(BLOCK_BYTES)
            if piece != theirs.read(BLOCK_BYTES):
                return False
            if not piece:
                return True


def difference(left, right):
    """The first difference between two files or trees, or None. Names and contents; modes and times are not looked at."""
    if not os.path.lexists(right):
        return f"{right} is missing"
    if not os.path.isdir(left):
        return None if same_contents(left, right) else f"{right} has other contents than {left}"
    ours, theirs = sorted(os.listdir(left)), sorted(os.listdir(right))
    if ours != theirs:
        return f"{right} has other names than {left}: {sorted(set(ours) ^ set(theirs))[:5]}"
    differences = (difference(os.path.join(left, name), os.path.join(right, name)) for name in ours)
    return next(filter(None, differences), None)

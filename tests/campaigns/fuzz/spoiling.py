"""Loads a file, spoils it on the disk, and looks whether what was loaded is still the same.

A program: `spoiling FOLDER` tries every case and prints the name of each that changed nothing. A loader that keeps a file
mapped into memory has changed values where the file was overwritten, and is killed (SIGBUS) where it was cut short.
"""

import sys
from pathlib import Path

import torch

from pack.tests.campaigns.fuzz.files import load, suffix_of, tensors_of, whole

BASES = ["large table", "large attribute", "published"]
FAULTS = {
    "overwritten": lambda file, size: file.write(bytes(size)),
    "cut short": lambda file, size: file.truncate(100),
}


def is_unchanged(path, base, spoil):
    """Whether a file's tensors are the same after it was spoilt."""
    path.write_bytes(whole()[base])
    thing = load(path, base)
    before = {key: value.clone() for key, value in tensors_of(thing)[0].items()}
    with path.open("r+b") as file:
        spoil(file, len(whole()[base]))
    return all(torch.equal(before[key], value) for key, value in tensors_of(thing)[0].items())


def main(folder):
    for fault, spoil in FAULTS.items():
        for base in BASES:
            if is_unchanged(Path(folder, f"x{suffix_of(base)}"), base, spoil):
                print(f"{base}, {fault}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

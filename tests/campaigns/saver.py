"""Saves directions in a process of its own, which can be killed, limited, held up or made another user's.

As a program it reads an order from each line of its standard input.
It answers with "begins" and then with the path that was saved or the error. Orders and answers are JSON.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import torch

from pack.core.avi.attribute import Attribute, LatentKind, Mixture, Recipe
from pack.core.hspace.direction import Direction, Family
from pack.core.hspace.file import direction_tensors
from pack.core.svd.decomposition import decompose
from pack.tests.child import command

LEVELS, CHANNELS = 8, 1024  # with 16 x 16 pixels 8 MB: a save takes long enough to be hit


def direction(seed, size=16):
    """One to save, the same for the same seed."""
    shifts = torch.randn(LEVELS, CHANNELS, size, size, generator=torch.Generator().manual_seed(seed))
    return Direction(shifts, tuple(2.0**-i for i in range(LEVELS)), Family("SD15", "EPS", CHANNELS), "random", {"seed": str(seed)})


class Saver:
    """A process that saves; `free` when it waits for an order."""

    def __init__(self):
        self.free = True
        self.process = subprocess.Popen(command("pack.tests.campaigns.saver"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, order):
        self.process.stdin.write(f"{json.dumps(order)}\n")
        self.process.stdin.flush()

    def hear(self):
        """Its next answer; an empty one if it has ended."""
        said = json.loads(self.process.stdout.readline() or '""')
        self.free = said not in ("", "begins", "waits")
        return said

    def begin(self, folder, *, node=None, seed=2, size=16, **faults):
        """Order a save into this output folder, by a node of the pack or by what its nodes call, and wait until it begins."""
        self.free = False
        self.tell({"folder": str(folder), "node": node, "seed": seed, "size": size, "faults": faults})
        assert self.hear() == "begins"

    def told(self, folder, **order):
        """What comes of an order."""
        self.begin(folder, **order)
        return self.hear()

    def kill(self):
        """End it at once; how it ended: less the signal's number if it was killed before."""
        self.free = False
        self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait()


# --- what may happen to a save: each is in force within a `with`

MOMENTS = ["before writing", "whole, before its name", "whole, beside its name", "after the save"]


def killed(moment, ask):
    """The process is killed at a moment of the save, once that step is done."""
    import comfy.utils

    place, name = {"whole, beside its name": (os, "link"), "after the save": (Path, "unlink")}.get(moment, (comfy.utils, "save_torch_file"))
    step = getattr(place, name)

    def last_step(*args, **options):
        if moment != "before writing":
            step(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return patch.object(place, name, last_step)


@contextlib.contextmanager
def full(limit, ask):
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def held_up(times, ask):
    """The save waits when it has its number, and the second time when it is about to give the name."""
    import folder_paths

    number, give_name, left = folder_paths.get_save_image_path, os.link, [*range(times)]

    def wait():
        if left:
            left.pop()
            ask("waits")

    def number_then_wait(*args):
        found = number(*args)
        wait()
        return found

    def wait_then_give_name(*args):
        wait()
        give_name(*args)

    with patch.object(folder_paths, "get_save_image_path", number_then_wait), patch.object(os, "link", wait_then_give_name):
        yield


@contextlib.contextmanager
def another_user(number, ask):
    """The process becomes that user's, for good."""
    os.setgid(number)
    os.setuid(number)
    yield


FAULTS = {
    "killed": killed,
    "full": full,
    "held_up": held_up,
    "another_user": another_user,
    "process_id": lambda number, ask: patch.object(os, "getpid", lambda: number),
}


# --- as a program


def obey(order, answer, ask):
    """Save what is ordered; the path. It may answer meanwhile, or ask for a word to go on."""
    import folder_paths

    from pack.demo import SLIDERS
    from pack.host.folders import FOLDER, register_folders, save_whole

    folder_paths.output_directory = order["folder"]
    folder_paths.folder_names_and_paths.pop(FOLDER, None)
    register_folders(SLIDERS)
    one = direction(order["seed"], order["size"])
    mix = Mixture(((Attribute(Recipe(), decompose(torch.randn(1, 4, 8, 8)), LatentKind("SD15", 4)), 1.0),))
    tensors, metadata = direction_tensors(one)

    def words():
        from pack.core.hspace.injection import Window
        from pack.host.sliders import WordSlider

        prompt = [[torch.ones(1, 4, 8), {"pooled_output": torch.ones(1, 8)}]]
        return WordSlider("smile", prompt, prompt, None, "prediction", Window(), "SD15")

    def by_node(name, **given):
        from pack.nodes import files  # which takes longer to import than all else, and most orders name no node

        return getattr(files, name).execute(**given, filename_prefix="smile").ui["text"][0]

    saves = {
        None: lambda: save_whole(tensors, metadata, "smile"),
        "SaveDirection": lambda: by_node("SaveDirection", direction=one),
        "SaveAttribute": lambda: by_node("SaveAttribute", attribute=mix),
        "SaveSlider": lambda: by_node("SaveSlider", slider=words()),
    }
    with contextlib.ExitStack() as faults:
        for name, value in order["faults"].items():
            faults.enter_context(FAULTS[name](value, ask))
        answer("begins")
        return str(saves[order["node"]]())


def main():
    from comfy.cli_args import args

    args.cpu = True  # before anything else of the host is imported
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the host prints is no answer

    def answer(text):
        answers.write(f"{json.dumps(text)}\n")

    def ask(text):
        answer(text)
        sys.stdin.readline()

    for line in iter(sys.stdin.readline, ""):
        try:
            answer(obey(json.loads(line), answer, ask))
        except Exception as error:
            answer(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()

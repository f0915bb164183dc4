"""What is watched while a file is loaded: what is opened and changed, and the memory that is taken."""

import ctypes
import os
import sys
from pathlib import Path

import torch


class Opened:
    """What Python opens or changes while `watching`, less the file itself and Python's own; a hook cannot be removed."""

    CHANGES = ("os.", "shutil.", "subprocess.", "socket.", "tempfile.")
    HARMLESS = ("os.listdir", "os.scandir", "os.listdrives")

    def __init__(self):
        self.watching, self.found = None, []
        self.own = tuple(
            {
                str(Path(place).resolve())
                for place in (
                    sys.pycache_prefix or sys.prefix,
                    sys.prefix,
                    sys.base_prefix,
                    Path(torch.__file__).parents[1],
                    Path(os.__file__).parent,
                )
            }
            | {"/proc/self"}
        )
        sys.addaudithook(self)

    def __call__(self, event, args):
        if self.watching is None:
            return
        if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
            path, writes = os.path.realpath(os.fsdecode(args[0])), bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes or path != self.watching and not path.startswith(self.own):
                self.found.append(f"opened {path}")
        elif event.startswith(self.CHANGES) and event not in self.HARMLESS:
            self.found.append(f"{event} {args}")


class Watched:
    """A folder, through the kernel (inotify): whoever opens or changes something in it, Rust and C too."""

    OPEN_MODIFY_CREATE_DELETE_MOVE = 0x20 | 0x2 | 0x100 | 0x200 | 0x40 | 0x80

    def __init__(self, folder):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.fd, os.fsencode(folder), self.OPEN_MODIFY_CREATE_DELETE_MOVE) >= 0, os.strerror(
            ctypes.get_errno()
        )

    def events(self):
        try:
            return os.read(self.fd, 2**16)
        except BlockingIOError:
            return b""


def memory(name):
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def ran_out_of_memory(error):
    """Whether this error, or one that it came from, is a refused allocation."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False

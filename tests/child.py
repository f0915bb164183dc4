"""Runs a module of the tests as a program, in a process that is started afresh.

A fork would not do where torch has run on more than one thread.
The first parallel operation of such a fork waits for threads that it does not have.
`python tests/child.py pack.tests.campaigns.fuzz.trial 137 138` tries damaged file 137 alone.
"""

import runpy
import sys
from pathlib import Path


def command(module, *arguments):
    """The command line that runs a module of the pack as a program, in which the pack is imported as in the tests."""
    return [sys.executable, "-P", __file__, module, *map(str, arguments)]


if __name__ == "__main__":
    sys.argv[:] = sys.argv[1:]
    runpy.run_path(str(Path(__file__).with_name("conftest.py")))
    runpy.run_module(sys.argv[0], run_name="__main__")

"""Time that the pack adds to the start of a loaded host: its import, its nodes and their schemas, as the host loads them.

    COMFYUI=<host's folder> python bench/loading.py [--repeats 5]

Each measurement is a Python of its own. Prints the median of seconds by the clock and of seconds of processor time, which
other programs on the machine do not lengthen as much, and the packages that came in beside the host's. The first row is a
start without compiled files, as after an installation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent


def load() -> dict[str, object]:
    """Load the host's own nodes, then the pack, and time that."""
    sys.argv = sys.argv[:1]
    sys.path.insert(0, os.environ["COMFYUI"])
    from comfy.cli_args import args

    args.cpu = True
    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())
    before, clock, processor = set(sys.modules), time.perf_counter(), time.process_time()
    if not asyncio.run(nodes.load_custom_node(str(ROOT))):
        sys.exit("the pack could not be loaded; see above")
    seconds = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
    packages = {name.split(".")[0] for name in set(sys.modules) - before if not name.startswith(os.sep)}
    return {**seconds, "packages": sorted(packages - set(sys.stdlib_module_names))}


def measured(compiled: str) -> dict[str, object]:
    """A measurement in a fresh Python that keeps compiled files in a folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, __file__, "--one"]
    result = subprocess.run(command, env={**environment, "PYTHONPYCACHEPREFIX": compiled}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="starts with compiled files")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(load()))
        return
    with tempfile.TemporaryDirectory() as compiled:
        first, *others = [measured(compiled) for _ in range(1 + options.repeats)]
    for name, runs in (("the first start", [first]), (f"{len(others)} later starts, medians", others)):
        clock, processor = (median(run[kind] for run in runs) for kind in ("clock", "processor"))
        packages = ", ".join(runs[-1]["packages"]) or "none"
        print(f"{name}: {clock:.2f} s by the clock, {processor:.2f} s of processor time; packages: {packages}")


if __name__ == "__main__":
    main()

"""Imports the pack as ComfyUI does, named "pack"; leaves out what needs ComfyUI where there is none."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = os.environ.get("COMFYUI")
collect_ignore = [] if HOST else ["nodes", "workflows"]


def import_pack():
    """ComfyUI imports a pack by path, and its own modules (nodes, server, ...) come first on sys.path."""
    if HOST:
        sys.path.insert(0, HOST)
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)


def pytest_terminal_summary(terminalreporter):
    """Say what was left out."""
    if collect_ignore:
        left_out = ", ".join(f"tests/{name}" for name in collect_ignore)
        terminalreporter.write_line(f"left out: {left_out}; they need ComfyUI (make test, or COMFYUI=its folder)", yellow=True)


import_pack()

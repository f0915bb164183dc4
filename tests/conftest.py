"""Imports the pack as ComfyUI does, named "pack"; skips what needs ComfyUI where there is none."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOST = os.environ.get("COMFYUI")
NEED_HOST = [ROOT / "tests" / "nodes", ROOT / "tests" / "workflows"]


def import_pack():
    """ComfyUI imports a pack by path; its own modules (nodes, server, ...) come first on sys.path."""
    if HOST:
        sys.path.insert(0, HOST)
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)


class NeedsHost(pytest.Module):
    """A module of tests that cannot even be imported without ComfyUI."""

    def collect(self):
        pytest.skip("needs ComfyUI: use make test, or set COMFYUI to its folder", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if not HOST and set(NEED_HOST) & set(module_path.parents):
        return NeedsHost.from_parent(parent, path=module_path)


import_pack()

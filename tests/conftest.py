"""Imports the pack as ComfyUI does, named "pack"; leaves out what needs ComfyUI where there is none."""

import gc
import importlib.util
import itertools
import os
import sys
from pathlib import Path

import pytest

# Read when torch is imported, here and in the programs that tests start: threads of several processes that wait for each other on the same
# cores sleep, in place of spinning, which took more than three times as long. How many they are stays as it is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parent.parent
HOST = os.environ.get("COMFYUI")
HOURS = 14_000  # seconds
collect_ignore = [] if HOST else ["bench", "campaigns", "demo", "host", "nodes", "workflows"]
pytest_plugins = ["pack.tests.host_in_process"] if HOST else []


def import_pack():
    """ComfyUI imports a pack by path, and its own modules (nodes, server, ...) come first on sys.path."""
    if HOST:
        sys.path.insert(0, HOST)
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run each campaign at its full size, and write its figures to docs/hardening")
    parser.addoption("--figures", action="store_true", help="write the campaigns' figures to docs/hardening, whatever their size")


def pytest_configure(config):
    config.addinivalue_line("markers", "campaign: many cases of one kind; all of them with --long, a share of them without")
    config.addinivalue_line(
        "markers", "slow: takes minutes even as a share; left out unless it is asked for (-m slow, or --long with -m campaign)"
    )


def pytest_collection_modifyitems(config, items):
    """A campaign at its full size may take hours."""
    if config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("campaign"):
                item.add_marker(pytest.mark.timeout(HOURS), append=False)


def pytest_collection_finish():
    """The host collects garbage whenever it finds a model that is gone; what was imported by now need not be looked through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rounds(request):
    """`rounds(200, 10_000)`: how many cases to run, without and with --long."""
    return lambda short, full: full if request.config.getoption("--long") else short


@pytest.fixture
def figures(record_property):
    """`figures("damaged files", "10 000 tried, all refused")`: a line for the summary, and for docs/hardening with --long or --figures."""
    return lambda name, text: record_property("figures", (name, text))


def write_figures(found):
    """Into the page of this host's version; what was measured before and not now stays."""
    from comfyui_version import __version__

    page = ROOT / "docs" / "hardening" / f"{__version__}.md"
    lines = page.read_text().splitlines()[4:] if page.exists() else []
    rows = dict(line.strip("| ").split(" | ", 1) for line in lines) | found
    page.parent.mkdir(exist_ok=True)
    page.write_text(
        "\n".join(
            [
                f"What the campaigns found on ComfyUI {__version__}; each row says how many cases were tried. `make test-long` writes it.",
                "",
                "| campaign | figures |",
                "|---|---|",
                *(f"| {k} | {rows[k]} |" for k in sorted(rows)),
            ]
        )
        + "\n"
    )


def pytest_terminal_summary(terminalreporter, config):
    """Say what the campaigns found, and what was left out."""
    reports = itertools.chain(*terminalreporter.stats.values())
    found = dict(value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "figures")
    for name, text in found.items():
        terminalreporter.write_line(f"{name}: {text}")
    if found and (config.getoption("--long") or config.getoption("--figures")):
        write_figures(found)
    if collect_ignore:
        left_out = ", ".join(f"tests/{name}" for name in collect_ignore)
        terminalreporter.write_line(f"left out: {left_out}; they need ComfyUI (make test, or COMFYUI=its folder)", yellow=True)


import_pack()

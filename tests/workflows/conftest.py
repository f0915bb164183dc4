"""A real server and a real browser for the session."""

import os
from pathlib import Path

import pytest

if "COMFYUI" in os.environ:
    from pack.dev.server import Host, tail
    from pack.dev.system import find_browser

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
CHROMIUM_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    # A first visit shows the templates and release notes over the graph.
    "Comfy.TutorialCompleted": True,
    "Comfy.Notification.ShowVersionUpdates": False,
    # The screenshots should show the nodes' text however far out they are zoomed.
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
    "Comfy.Minimap.Visible": False,
    # The browser draws in software, which takes the server's cores.
    "LiteGraph.Canvas.MaximumFps": 5,
    "Comfy.Appearance.DisableAnimations": True,
}


def pytest_generate_tests(metafunc):
    """Run a test that takes a workflow for each of the example workflows, and all tests of one before those of the next."""
    if "workflow_file" in metafunc.fixturenames:
        assert WORKFLOWS, f"no workflows in {ROOT / 'workflows'}"
        metafunc.parametrize("workflow_file", WORKFLOWS, ids=lambda path: path.stem, scope="module")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Show the server's log with a failed test."""
    report = yield
    if report.failed and "server" in getattr(item, "funcargs", {}):
        report.sections.append(("log of the server", tail(item.funcargs["server"].log, 60)))
    return report


@pytest.fixture(scope="session")
def server():
    """One ComfyUI for all tests."""
    with Host(os.environ["COMFYUI"]) as host:
        host.client.post("/settings", SETTINGS)
        yield host


@pytest.fixture(scope="session")
def object_info(server):
    """The server's node types."""
    return server.client.object_info()


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_browser(), args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, server):
    """The frontend, loaded; page.problems collects console errors and uncaught exceptions."""
    context = browser.new_context(viewport={"width": 1920, "height": 1080})
    # Nothing is fetched from outside, so that a test says the same with and without a network.
    context.route(lambda url: not url.startswith((server.address, "data:", "blob:")), lambda route: route.abort())
    page = context.new_page()
    page.problems = []
    page.on("console", lambda line: line.type == "error" and page.problems.append(f"{line.text} {line.location}"))
    page.on("pageerror", lambda error: page.problems.append(f"{error.message}\n{error.stack}"))
    page.goto(server.address)
    page.wait_for_function("window.app?.vueAppReady && window.app.graph", timeout=120_000)
    yield page
    context.close()

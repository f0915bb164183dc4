"""A server cancelled at any moment, and edited again and again: it stops at once, goes on as before, and gives its memory back."""

import contextlib
import os
import random
import threading
import time
from pathlib import Path

import pytest

from pack.dev.server import Host
from pack.tests.workflows.graphs import DemoGraph, base_directory, outcome, saved, with_ours
from pack.tests.workflows.long_runs import LONG, applied

pytestmark = [pytest.mark.timeout(600), pytest.mark.campaign, pytest.mark.slow]
MB = 2**20
KEEPER = """
import ctypes
import gc

KEPT = []


class Keep:
    RETURN_TYPES, FUNCTION, CATEGORY = ("LATENT",), "keep", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",)}}

    def keep(self, samples):
        KEPT.append(samples["samples"].clone())
        return (samples,)


class Collect:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "collect", "test", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls):
        return float("nan")

    def collect(self):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return {}


NODE_CLASS_MAPPINGS = {"Keep": Keep, "Collect": Collect}
"""
COLLECT = {"1": {"class_type": "Collect", "inputs": {}}}


@contextlib.contextmanager
def serving(folder):
    """A server whose freed tensors go back to the system, with a pack beside ours that keeps latents."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MMAP", "TRIM"):
            patch.setenv(f"MALLOC_{name}_THRESHOLD_", "65536")
        with Host(os.environ["COMFYUI"], arguments=base_directory(folder, with_ours(keeper=KEEPER))) as host:
            yield host


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A server for all tests here."""
    with serving(tmp_path_factory.mktemp("base")) as host:
        yield host


@pytest.fixture
def fresh(tmp_path):
    """A server for one test, whose memory has no room left over by others."""
    with serving(tmp_path) as host:
        yield host


@pytest.fixture(scope="module")
def info(host):
    return host.client.object_info()


def memory(host, of="VmRSS"):
    """Bytes of the server's memory, resident now (VmRSS) or at most (VmHWM)."""
    status = Path(f"/proc/{host.process.pid}/status").read_text()
    return 1024 * int(status.split(f"{of}:")[1].split()[0])


def left(host):
    """Bytes of memory that stay after everything was unloaded and forgotten, and what nobody holds was collected."""
    host.client.post("/history", {"clear": True})
    host.client.post("/free", {"unload_models": True, "free_memory": True})
    for _ in range(2):  # it frees before or after the next prompt, and surely before the one after
        host.client.run(COLLECT)
    return memory(host)


# Cancel


# Runs after which the allocator's pools have their size: 15 MB for Train Attribute. 30 runs take all of it, and the next 90 take 1 MB.
SETTLED = 40


class Clock:
    """When a node began, reported progress and was left, in seconds; tells another when it begins."""

    def __init__(self, node, at_start=lambda: None):
        self.node, self.at_start, self.times = node, at_start, []

    def __call__(self, kind, data):
        if kind == "executing" and data["node"] == self.node:
            self.at_start()
        if data.get("node") == self.node and kind in ("executing", "progress", "executed"):
            self.times.append(time.monotonic())

    @property
    def span(self):
        return self.times[-1] - self.times[0]


def cancelled(host, graph, node, delay):
    """Cancel a graph some seconds after one of its nodes began.

    Returns the seconds, and those of the processor, that it still took. Returns None if it was done before.
    """
    posted = []

    def interrupt():
        posted.append((time.monotonic(), processor_time(host)))
        host.client.post("/interrupt", {})

    timer = threading.Timer(delay, interrupt)
    found = outcome(host.client, graph, Clock(node, timer.start))
    now = time.monotonic(), processor_time(host)
    timer.cancel()
    return [after - before for before, after in zip(posted[0], now)] if found.kind == "interrupted" else None


def processor_time(host):
    """Seconds of the processor that a server has used."""
    fields = Path(f"/proc/{host.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("grow", LONG, ids=lambda grow: grow.__name__)
def test_cancel_stops_at_once_and_leaves_nothing_behind(grow, host, info, rounds, figures):
    """At once: within a second of the processor's time, so that a busy machine says the same."""
    graph = DemoGraph(info)
    node = grow(graph)
    clock, waits, chance = Clock(node), [], random.Random(grow.__name__)
    expected = saved(host, host.client.run(graph, clock))
    for _ in range(rounds(1, SETTLED)):
        host.client.run(graph)
        readings = [left(host)]
    for moment in range(rounds(1, 20)):
        share = chance.random()
        told = f"moment {moment}, {share:.2f} of its run"
        for attempt in range(4):
            waited = cancelled(host, graph, node, share * clock.span / 2**attempt)
            if waited:
                break
            left(host)  # or it would find its result there
        assert waited, f"{told}: it went on to its end"
        assert waited[1] < 1, f"{told}: it stopped after {waited[0]:.2f} s, {waited[1]:.2f} s of the processor"
        waits.append(waited)
        assert saved(host, host.client.run(graph)) == expected, f"{told}: the run after it gave another result"
        readings.append(left(host))
    half = len(readings) // 2
    grown = min(readings[half:]) - min(readings[:half])  # the pools' sizes go up and down; what is kept does not
    assert grown < 4 * MB, f"{grown / MB:.1f} MB more after {len(waits)} runs cancelled; {[round(one / MB, 1) for one in readings]}"
    most = [max(times) for times in zip(*waits)]
    figures(
        f"cancel {grow.__name__.replace('_', ' ')}",
        f"{len(waits)} times; stopped after {most[0]:.2f} s at most ({most[1]:.2f} s of the processor), "
        f"the next run equal bit for bit; memory {grown / MB:+.1f} MB",
    )


# Memory


def late(graph, i, **inputs):
    """One step, late in a run, of a batch."""
    return graph.drawn(steps=1, denoise=0.2, cfg=1.0, batch=BATCH, size=8 * SIDE, seed=i, **inputs)


def with_direction(graph, i):
    return late(
        graph, i, model=applied(graph, strength=0.2 + 0.1 * (i % 50), end_percent=1.0, asymmetric=i % 8 > 3), sampler=graph.sampler("ddim")
    )


def with_attribute(graph, i):
    attribute = [graph.own("LoadAttribute", file="portrait_attribute_sunglasses.safetensors"), 0]
    use = graph.own("ApplyAttribute", sampler=graph.sampler(), attribute=attribute, strength=0.1 * (i % 50), target=graph.prompts["target"])
    return late(graph, i, sampler=[use, 0])


def with_operation(graph, i):
    operation = [graph.own("SpectrumOperation", strength=0.1 * (i % 50)), 0]
    edit = graph.own("EditDuringSampling", sampler=graph.sampler(), operation=operation, end_percent=1.0)
    return late(graph, i, sampler=[edit, 0])


def with_training(graph, i):
    learned = graph.own(
        "TrainAttribute",
        model=graph.model,
        **graph.prompts,
        vae=graph.vae,
        sampler=graph.sampler(),
        sigmas=graph.sigmas(4),
        latent=graph.empty(size=8 * SIDE),
        seeds=1,
        seed=i,
        cfg=1.0,
    )
    return late(graph, i, sampler=[graph.own("ApplyAttribute", sampler=graph.sampler(), attribute=[learned, 0]), 0])


EDITS = [with_direction, with_attribute, with_operation, with_training]
BATCH, SIDE = 24, 16
LATENTS = 4 * BATCH * 4 * SIDE * SIDE  # bytes of one run's result


def growth(host, info, runs, edits=EDITS, keep=False):
    """Bytes that memory's low grew by, from the first to the second half of the readings after every round of edits, and the readings."""
    readings = []
    for i in range(runs):
        graph = DemoGraph(info)
        latent = edits[i % len(edits)](graph, i)
        graph.save(graph.out("Keep", samples=latent) if keep else latent)
        host.client.run(graph)
        if i % len(EDITS) == len(EDITS) - 1:
            readings.append(left(host))
    settled = readings[1:]
    half = len(settled) // 2
    return min(settled[-half:]) - min(settled[:half]), readings


def of_a_leak(runs):
    """Bytes by which `growth` would rise if each run kept its latents."""
    settled = runs // len(EDITS) - 1
    return (settled - settled // 2) * len(EDITS) * LATENTS


@pytest.mark.slow
def test_edits_in_a_row_keep_no_memory(host, info, rounds, figures):
    runs = rounds(20, 200)
    grown, readings = growth(host, info, runs)
    assert grown < of_a_leak(runs) / 2, f"{grown / MB:.2f} MB more; {[round(one / MB, 1) for one in readings]}"
    figures(
        "memory after edits in a row",
        f"{runs} runs, each with other strengths and seeds: {grown / MB:+.2f} MB from the low of the first half to that of the second; "
        f"a run's latents kept would be {of_a_leak(runs) / MB:.1f} MB",
    )


@pytest.mark.slow
def test_a_run_that_kept_its_latents_would_be_seen(fresh, info):
    grown, readings = growth(fresh, info, 12, [with_operation], keep=True)
    assert grown > of_a_leak(12) / 2, [round(one / MB, 1) for one in readings]


def peak(host, graph):
    """Bytes of memory that a run takes at most beyond what was there."""
    before = left(host)
    Path(f"/proc/{host.process.pid}/clear_refs").write_text("5")
    host.client.run(graph)
    return memory(host, "VmHWM") - before


@pytest.mark.slow
def test_peaks_of_edits_stay_near_that_of_the_plain_run(host, info, figures):
    def plain(graph, i):
        return late(graph, i)

    def symmetric(graph, i):
        return with_direction(graph, 0)

    def asymmetric(graph, i):
        return with_direction(graph, 4)

    peaks = {}
    for edit in (plain, symmetric, asymmetric, with_attribute, with_operation):
        graph = DemoGraph(info)
        peaks[edit.__name__] = peak(host, graph.save(edit(graph, 1)))
    expected = peaks.pop("plain")
    figures(
        "memory at most",
        f"plain run of {BATCH}: {expected / MB:.1f} MB; "
        + ", ".join(f"{name.replace('_', ' ')} {(most - expected) / MB:+.1f}" for name, most in peaks.items()),
    )
    assert max(peaks.values()) < 1.5 * expected, peaks

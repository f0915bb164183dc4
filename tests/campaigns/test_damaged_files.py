"""Files from elsewhere: whatever stands in one, its loader refuses it by name or gives a sound object, and touches nothing else."""

import functools
import json
import os
import subprocess
from collections import Counter

import pytest

from pack.tests.campaigns.fuzz.cases import KINDS, KNOWN
from pack.tests.campaigns.fuzz.files import load, whole
from pack.tests.campaigns.fuzz.safetensors_parts import Parts
from pack.tests.campaigns.fuzz.spoiling import BASES, FAULTS
from pack.tests.child import command

MB = 2**20


@functools.cache
def campaign(count):
    """What became of the first damaged files, and of the known ones."""
    settings = {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # what is freed is given back, and counted when it is taken again
    trial = command("pack.tests.campaigns.fuzz.trial", 0, count)
    done = subprocess.run(trial, capture_output=True, text=True, env={**os.environ, **settings})
    assert done.returncode == 0, f"ended by {done.returncode} at {done.stderr[-2000:]}"
    return json.loads(done.stdout)


@pytest.fixture
def tried(rounds):
    return campaign(rounds(300, 10_000))


@pytest.mark.campaign
def test_a_damaged_file_is_refused_by_name_or_still_sound(tried, figures):
    cases = tried["cases"]
    verdicts = Counter((case["kind"], case["verdict"]) for case in cases)
    total = Counter(case["verdict"] for case in cases)
    largest, peak = max(case["size"] for case in cases), max(case["peak"] for case in cases)
    by_kind = "; ".join(f"{kind} {verdicts[kind, 'refused']}/{verdicts[kind, 'loaded']}" for kind in KINDS)
    figures(
        "damaged files",
        f"{len(cases)} tried, {total['refused']} refused by name, {total['loaded']} still sound, {total['failed']} other errors; "
        f"peak {peak / MB:.1f} MB beyond what was there, {peak / largest:.1f} times the largest file; refused/sound by kind: {by_kind}",
    )
    faults = [fault for case in cases for fault in case["faults"]]
    assert not faults, f"{len(faults)}, such as\n" + "\n".join(faults[:30])


def test_every_kind_of_damage_was_tried_and_no_file_stays_open(tried):
    assert {case["kind"] for case in tried["cases"]} == set(KINDS)
    assert {"refused", "loaded"} <= {case["verdict"] for case in tried["cases"]}
    assert tried["left"] == []
    assert tried["open files"] == 0


@pytest.mark.parametrize("name", KNOWN)
def test_what_once_broke_a_loader_is_refused_by_name(tried, name):
    (case,) = (case for case in tried["known"] if case["kind"] == name)
    assert not case["faults"]
    assert case["verdict"] == "refused"


@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory):
    """What changed nothing when files were spoilt after loading, and how the process ended that tried it."""
    spoiling = command("pack.tests.campaigns.fuzz.spoiling", tmp_path_factory.mktemp("spoilt"))
    done = subprocess.run(spoiling, stdout=subprocess.PIPE, text=True)
    return [*done.stdout.splitlines(), f"ended by {done.returncode}"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("base", BASES)
def test_what_happens_to_a_file_after_loading_changes_nothing(unspoilt, base, fault):
    assert f"{base}, {fault}" in unspoilt


def test_a_file_of_more_values_than_any_direction_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    parts = Parts(whole()["table"])
    size = 2**30 + 8
    header = json.dumps({"__metadata__": parts.metadata, "shifts": {"dtype": "BOOL", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    with pytest.raises(ValueError, match="file: x.safetensors is larger than any direction"):
        load(path, "table")

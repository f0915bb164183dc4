"""Saving when something goes wrong: what lies under a final name is whole, no file is lost, the error is clear, and the next save works."""

import errno
import itertools
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from pack.tests.campaigns.first_save import FirstSave, is_same, save
from pack.tests.campaigns.saver import MOMENTS, Saver, direction


@pytest.fixture(scope="module")
def savers():
    """`savers(2)`: processes that save; those that are free are used again, as each takes seconds to start."""
    started = []

    def some(count):
        free = [saver for saver in started if saver.free]
        new = [Saver() for _ in range(count - len(free))]
        started.extend(new)
        return [*free, *new][:count]

    yield some
    for saver in started:
        saver.kill()


@pytest.fixture
def saved(folders):
    """The folder of a first save, smile_00001_, that must not change."""
    return FirstSave(save(direction(1)))


def after_kill(saved, meant, case=""):
    """Tells where a kill fell, from what it left, and clears up.

    It asserts that what has a final name is whole, and that leftovers are in nobody's way.
    """
    finals, rest = saved.others()
    assert len(finals) <= 1, case
    assert all(is_same(path, meant) for path in finals), case
    assert saved.listed() & {path.name for path in rest} == set()
    finals_after = [saved.next_save_works(), *finals]
    assert saved.listed() >= {path.name for path in finals_after}
    assert {path.name for path in finals_after} <= {"smile_00002_.safetensors", "smile_00003_.safetensors"}, "the numbers do not go on"
    for path in (*finals_after, *rest):
        path.unlink()
    partial = any(path.suffix == ".partial" for path in rest)
    return (
        "after the save"
        if finals and not rest
        else "beside its name"
        if finals
        else "before its name"
        if partial
        else "while writing"
        if rest
        else "before writing"
    )


@pytest.mark.campaign
def test_a_killed_save_leaves_the_old_files_and_no_part_under_a_final_name(saved, savers, tmp_path, rounds, figures):
    rng, meant, fell, lengths = random.Random(0), direction(2), Counter(), []
    for i in range(rounds(3, 200)):
        (saver,) = savers(1)
        for _ in range(5):  # the first one takes longer
            saver.begin(tmp_path / "before")
            began = time.perf_counter()
            saver.hear()
            lengths.append(time.perf_counter() - began)
        moment = rng.uniform(0, 0.8 * statistics.median(lengths))
        saver.begin(saved.output)
        time.sleep(moment)
        saver.kill()
        fell[after_kill(saved, meant, f"kill {i}, {1000 * moment:.1f} ms after the start")] += 1
    figures(
        "killed saves",
        f"{sum(fell.values())} kills in saves of {statistics.median(lengths) * 1000:.0f} ms: "
        + ", ".join(f"{count} {where}" for where, count in fell.most_common())
        + "; the older file and each file under a final name whole, the next save worked",
    )
    assert fell["before writing"] + fell["after the save"] < sum(fell.values()), f"no kill fell into a save: {fell}"


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_save_killed_between_its_steps_leaves_nothing_that_hinders(saved, savers, moment):
    (saver,) = savers(1)
    assert saver.told(saved.output, killed=moment) == ""
    assert saver.process.wait() == -signal.SIGKILL
    assert moment.endswith(after_kill(saved, direction(2)))


def test_leftovers_are_not_listed_and_do_not_hinder(saved):
    for name in ("smile_00002_.partial", "smile_00003_.partial", ".tmpAbCdEf", "smile_.partial", "smile_x_.partial"):
        (saved.folder / name).write_bytes(b"a part")
    assert saved.listed() == {"smile_00001_.safetensors", *saved.listed()}
    assert not any("partial" in name or "tmp" in name for name in saved.listed())
    saved.next_save_works()
    assert (saved.folder / "smile_00002_.partial").read_bytes() == b"a part"


# --- a disk that is full, a folder that cannot be written


@pytest.mark.campaign
def test_a_full_disk_leaves_nothing_and_says_so(saved, savers, rounds, figures):
    """A process that may write no more than so many bytes to one file."""
    rng, size = random.Random(1), (saved.folder / "smile_00001_.safetensors").stat().st_size
    limits = [0, 1, size - 1, *(rng.randrange(size) for _ in range(rounds(5, 100)))]
    (saver,) = savers(1)
    for limit in limits:
        assert "File too large" in saver.told(saved.output, full=limit), f"at {limit} of {size} bytes"
        assert saved.others() == ([], [])
    saved.next_save_works()
    figures("saves to a full disk", f"{len(limits)} tried, each with a clear error and nothing left over; the next save worked")


def write_half(error):
    """Stands in for a writer that fails after half of its bytes, and leaves them."""

    def act(tensors, path, metadata=None):
        Path(path).write_bytes(bytes(1000))
        raise error

    return act


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        MemoryError("too large"),
        KeyboardInterrupt("stopped"),
    ],
    ids=repr,
)
def test_a_writer_that_fails_half_way_leaves_nothing(saved, monkeypatch, error):
    import comfy.utils

    with monkeypatch.context() as patch, pytest.raises(type(error), match=str(error.args[-1])):
        patch.setattr(comfy.utils, "save_torch_file", write_half(error))
        save(direction(2))
    assert saved.others() == ([], [])
    saved.next_save_works()


def test_a_name_that_cannot_be_given_leaves_nothing(saved, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        for name in ("link", "open"):
            patch.setattr(os, name, full)
        save(direction(2))
    assert saved.others() == ([], [])
    saved.next_save_works()


def test_a_folder_that_knows_no_links_can_be_saved_to(saved, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        path = save(direction(2))
    assert is_same(path, direction(2))
    assert saved.others() == ([path], [])
    saved.next_save_works()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A process that saves as another user where this one may do anything."""
    saver = Saver()
    for node in ("SaveDirection", "SaveAttribute", "SaveSlider"):  # as whoever it is, which brings all that a save imports
        assert saver.told(tmp_path_factory.mktemp("own"), node=node).endswith("smile_00001_.safetensors")
    if os.getuid() == 0:
        saver.told(tmp_path_factory.mktemp("last"), another_user=65534)
    yield saver
    saver.kill()


@pytest.mark.parametrize("node", ["SaveDirection", "SaveAttribute", "SaveSlider"])
def test_a_folder_that_cannot_be_written_is_named(stranger, node):
    """Outside the test's own folder, into which only its owner may look."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder, "semantic_latents")
        inside.mkdir()
        for path, mode in ((inside, 0o555), (Path(folder), 0o755)):
            path.chmod(mode)
        said = stranger.told(folder, node=node)
        assert "Permission denied" in said
        assert str(inside) in said
        assert not list(inside.iterdir())
        inside.rmdir()
        Path(folder).chmod(0o555)
        said = stranger.told(folder, node=node)
        assert "Permission denied" in said
        assert str(inside) in said
        Path(folder).chmod(0o755)
        inside.write_text("a file")
        assert "semantic_latents" in stranger.told(folder, node=node)
        assert inside.read_text() == "a file"


# --- two at once

MEETINGS = {"with one number": 1, "with one number, both written": 2}


def both_at_once(savers, folder, seeds, **faults):
    """What savers said that wait for each other."""
    for saver, seed in zip(savers, seeds, strict=True):
        saver.begin(folder, seed=seed, size=8, **faults)
    said = [saver.hear() for saver in savers]
    while "waits" in said:
        waiting = [word == "waits" for word in said]
        for saver in itertools.compress(savers, waiting):
            saver.tell("go on")
        said = [saver.hear() if waits else word for saver, word, waits in zip(savers, said, waiting, strict=True)]
    return said


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("met", "where"), [(met, "in one system") for met in MEETINGS] + [pytest.param("with one number, both written", "in two containers")]
)
def test_two_savers_at_the_same_moment_both_save_or_say_to_try_again(saved, savers, rounds, figures, met, where):
    alike = {"process_id": 1} if where == "in two containers" else {}
    count, outcomes, faults = rounds(5, 150), Counter(), []
    for i in range(count):
        seeds, paths = (10 + 2 * i, 11 + 2 * i), []
        for seed, said in zip(seeds, both_at_once(savers(2), saved.output, seeds, held_up=MEETINGS[met], **alike), strict=True):
            if said.startswith("/"):
                paths.append(Path(said))
                outcome = "saved" if is_same(paths[-1], direction(seed, 8)) else "saved, but its file holds the other's"
            else:
                outcome = "refused, with the advice to try again" if "again" in said else said.partition(":")[0]
            outcomes[outcome] += 1
            faults += [] if outcome in ("saved", "refused, with the advice to try again") else [f"pair {i}: {outcome}: {said:.200}"]
        finals, rest = saved.others()
        faults += [f"pair {i} left {[path.name for path in (*finals, *rest)]}"] if finals != sorted(set(paths)) or rest else []
        for path in (*finals, *rest):
            path.unlink()
    figures(
        f"two savers at once, {where}, {met}", f"{count} pairs: " + ", ".join(f"{number} {what}" for what, number in outcomes.most_common())
    )
    assert not faults, f"{len(faults)} faults, such as\n" + "\n".join(faults[:10])


def test_a_name_taken_meanwhile_is_not_overwritten(saved, monkeypatch):
    """Another program's file, made between the choice of the number and the end of writing."""
    import comfy.utils

    write, taken = comfy.utils.save_torch_file, saved.folder / "smile_00002_.safetensors"

    def slow(*args, **options):
        if not taken.exists():
            taken.write_bytes(b"of another program")
        write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(comfy.utils, "save_torch_file", slow)
        try:
            path = save(direction(2))
        except FileExistsError:
            path = None
    assert taken.read_bytes() == b"of another program"
    assert path != taken
    assert saved.others() == (sorted({taken, path} - {None}), [])

"""Saving when something goes wrong: what lies under a final name is whole, no file is lost, the error is clear, and the next save works."""

import errno
import itertools
import os
import random
import resource
import select
import signal
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from pack.core.direction import Direction, Family
from pack.core.direction_files import direction_tensors, load_direction

LEVELS, CHANNELS = 8, 1024  # with 16 x 16 pixels 8 MB: a save takes long enough to be hit


def direction(seed, size=16):
    shifts = torch.randn(LEVELS, CHANNELS, size, size, generator=torch.Generator().manual_seed(seed))
    return Direction(shifts, tuple(2.0**-i for i in range(LEVELS)), Family("SD15", "EPS", CHANNELS), "random", {"seed": str(seed)})


def is_same(path, other):
    """Whether a file is whole and holds this direction."""
    found = load_direction(path)
    return torch.equal(found.shifts, other.shifts) and found.notes == other.notes


def save(one, prefix="smile"):
    from pack.nodes.files import save_whole

    return save_whole(*direction_tensors(one), prefix)


class Child:
    """act() in a process of its own, forked from this one; `said` is what it gave or raised."""

    def __init__(self, act):
        self.pipe, end = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                text = f"{act()}"
            except BaseException as error:
                text = f"{type(error).__name__}: {error}"
            os.write(end, text.encode())
            os._exit(0)
        os.close(end)

    def said(self):
        with os.fdopen(self.pipe) as pipe:
            text = pipe.read()
        self.ended_by = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return text


@pytest.fixture
def saved(folders):
    """The folder of a first save, smile_00001_, that must not change; and a function that says whether it did, what else is there, and what is left over."""
    path = save(direction(1))
    content = path.read_bytes()

    class Saved:
        folder = path.parent

        def others(self):
            """What stands beside the first file: files under final names, and the rest."""
            assert path.read_bytes() == content
            beside = set(self.folder.iterdir()) - {path}
            return sorted(file for file in beside if file.suffix == ".safetensors"), sorted(file for file in beside if file.suffix != ".safetensors")

        def listed(self):
            import folder_paths

            return set(folder_paths.get_filename_list("semantic_latents"))

        def next_save_works(self):
            new = save(direction(3, 4))
            assert is_same(new, direction(3, 4)) and new.name in self.listed() and new != path
            self.others()
            return new

    return Saved()


def after_kill(saved, meant, case=""):
    """Where a kill fell, from what it left; asserts that what has a final name is whole, that leftovers are in nobody's way, and clears up."""
    finals, rest = saved.others()
    assert len(finals) <= 1 and all(is_same(path, meant) for path in finals), case
    assert saved.listed() & {path.name for path in rest} == set()
    finals_after = [saved.next_save_works(), *finals]
    assert saved.listed() >= {path.name for path in finals_after}
    for path in (*finals_after, *rest):
        path.unlink()
    partial = any(path.suffix == ".partial" for path in rest)
    return "after the save" if finals and not rest else "beside its name" if finals else "before its name" if partial else "while writing" if rest else "before writing"


@pytest.mark.campaign
def test_a_killed_save_leaves_the_old_files_and_no_part_under_a_final_name(saved, rounds, figures):
    from pack.nodes.files import save_whole

    rng, meant, fell = random.Random(0), direction(2), Counter()
    tensors, metadata = direction_tensors(meant)
    seen, tell = os.pipe()

    def act():
        os.write(tell, b"s")
        path = save_whole(tensors, metadata, "smile")
        os.write(tell, b"e")
        return path

    def started():
        child = Child(act)
        os.read(seen, 1)
        return child, time.perf_counter()

    lengths = []
    for _ in range(5):
        child, began = started()
        os.read(seen, 1)
        lengths.append(time.perf_counter() - began)
        Path(child.said()).unlink()
    for i in range(rounds(10, 200)):
        child, began = started()
        moment = rng.uniform(0, 1.2 * statistics.median(lengths))
        time.sleep(max(0.0, began + moment - time.perf_counter()))
        os.kill(child.pid, signal.SIGKILL)
        if child.said():
            os.read(seen, 1)
        fell[after_kill(saved, meant, f"kill {i}, {1000 * moment:.1f} ms after the start")] += 1
    os.close(seen), os.close(tell)
    figures("killed saves", f"{sum(fell.values())} kills in saves of {statistics.median(lengths) * 1000:.0f} ms: " + ", ".join(f"{count} {where}" for where, count in fell.most_common())
            + "; the older file and each file under a final name whole, the next save worked")
    assert fell["before writing"] + fell["after the save"] < sum(fell.values()), f"no kill fell into a save: {fell}"


def dies(before=None, after=None):
    """A function that is killed before or after it does its work."""
    def act(*args, **options):
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        after(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return act


@pytest.mark.parametrize("moment", ["before writing", "whole, before its name", "whole, beside its name", "after the save"])
def test_a_save_killed_between_its_steps_leaves_nothing_that_hinders(saved, monkeypatch, moment):
    import comfy.utils

    place, name = {"after the save": (Path, "unlink"), "whole, beside its name": (os, "link")}.get(moment, (comfy.utils, "save_torch_file"))
    with monkeypatch.context() as patch:
        patch.setattr(place, name, dies(before=True) if moment == "before writing" else dies(after=getattr(place, name)))
        child = Child(lambda: save(direction(2)))
        child.said()
    assert child.ended_by == -signal.SIGKILL
    assert moment.endswith(after_kill(saved, direction(2)))


def test_the_numbers_go_on_after_a_killed_save(saved, monkeypatch):
    import comfy.utils

    with monkeypatch.context() as patch:
        patch.setattr(comfy.utils, "save_torch_file", dies(after=comfy.utils.save_torch_file))
        Child(lambda: save(direction(2))).said()
    assert saved.next_save_works().name in ("smile_00002_.safetensors", "smile_00003_.safetensors")


def test_leftovers_are_not_listed_and_do_not_hinder(saved):
    for name in ("smile_00002_.partial", "smile_00003_.partial", ".tmpAbCdEf", "smile_.partial", "smile_x_.partial"):
        (saved.folder / name).write_bytes(b"a part")
    assert saved.listed() == {"smile_00001_.safetensors", *saved.listed()} and not any("partial" in name or "tmp" in name for name in saved.listed())
    saved.next_save_works()
    assert (saved.folder / "smile_00002_.partial").read_bytes() == b"a part"


# --- a disk that is full, a folder that cannot be written

@pytest.mark.campaign
@pytest.mark.quick
def test_a_full_disk_leaves_nothing_and_says_so(saved, rounds, figures):
    """A process that may write no more than so many bytes to one file."""
    rng, size = random.Random(1), (saved.folder / "smile_00001_.safetensors").stat().st_size
    limits = [0, 1, size - 1, *(rng.randrange(size) for _ in range(rounds(5, 100)))]

    def act(limit):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return save(direction(2))

    for limit in limits:
        assert "File too large" in Child(lambda limit=limit: act(limit)).said(), f"at {limit} of {size} bytes"
        assert saved.others() == ([], [])
    saved.next_save_works()
    figures("saves to a full disk", f"{len(limits)} tried, each with a clear error and nothing left over; the next save worked")


def write_half(error):
    """Stands in for a writer that fails after half of its bytes, and leaves them."""
    def act(tensors, path, metadata=None):
        Path(path).write_bytes(bytes(1000))
        raise error
    return act


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"), MemoryError("too large"), KeyboardInterrupt("stopped")], ids=repr)
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
    assert is_same(path, direction(2)) and saved.others() == ([path], [])
    saved.next_save_works()


@pytest.mark.parametrize("node", ["SaveDirection", "SaveAttribute"])
def test_a_folder_that_cannot_be_written_is_named(monkeypatch, run, node):
    """Outside the test's own folder, into which only its owner may look; as another user where this one may do anything."""
    import folder_paths

    from pack.core.attribute import Attribute, LatentKind, Mixture, Recipe
    from pack.core.spectrum import decompose

    kind = LatentKind("SD15", 4)
    thing = {"direction": direction(1)} if node == "SaveDirection" else {"attribute": Mixture(((Attribute(Recipe(), decompose(torch.randn(1, 4, 8, 8)), kind), 1.0),))}

    def act():
        if os.getuid() == 0:
            os.setgid(65534), os.setuid(65534)
        return run(node, filename_prefix="smile", **thing)

    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(folder_paths, "output_directory", folder)
        inside = Path(folder, "semantic_latents")
        inside.mkdir()
        for path, mode in ((inside, 0o555), (Path(folder), 0o755)):
            path.chmod(mode)
        said = Child(act).said()
        assert "Permission denied" in said and str(inside) in said
        assert not list(inside.iterdir())
        inside.rmdir()
        Path(folder).chmod(0o555)
        said = Child(act).said()
        assert "Permission denied" in said and str(inside) in said
        Path(folder).chmod(0o755)
        inside.write_text("a file")
        assert "semantic_latents" in Child(act).said() and inside.read_text() == "a file"


# --- two at once

MEETINGS = {"with one number": 1, "with one number, both written": 2}


def meeting(act, ready, go, times):
    """act() in a child that tells when it has its number, and the second time when it is about to give the name, and waits to be let on."""
    import folder_paths

    left = [times]

    def meet():
        if left[0]:
            left[0] -= 1
            os.write(ready, b"r")
            os.read(go, 1)

    def after(work):
        def then_meet(*args, **options):
            result = work(*args, **options)
            meet()
            return result
        return then_meet

    def before(work):
        def meet_then(*args, **options):
            meet()
            return work(*args, **options)
        return meet_then

    def in_child():
        folder_paths.get_save_image_path, os.link = after(folder_paths.get_save_image_path), before(os.link)
        return act()

    return Child(in_child)


def both_at_once(meant, times):
    """What two savers said that met so many times."""
    (seen, ready), gates = os.pipe(), [os.pipe() for _ in meant]
    children = [meeting(lambda one=one: save(one), ready, gate[0], times) for one, gate in zip(meant, gates, strict=True)]
    os.close(ready)
    for _ in range(times):
        for _ in meant:
            if select.select([seen], [], [], 60)[0]:
                os.read(seen, 1)
        for gate in gates:
            os.write(gate[1], b"g")
    for end in (seen, *itertools.chain(*gates)):
        os.close(end)
    return [child.said() for child in children]


@pytest.mark.campaign
@pytest.mark.quick
@pytest.mark.parametrize(("met", "where"), [(met, "in one system") for met in MEETINGS] + [pytest.param("with one number, both written", "in two containers")])
def test_two_savers_at_the_same_moment_both_save_or_say_to_try_again(saved, rounds, figures, monkeypatch, met, where):
    if where == "in two containers":
        monkeypatch.setattr(os, "getpid", lambda: 1)
    count, outcomes, faults = rounds(5, 150), Counter(), []
    for i in range(count):
        meant, paths = [direction(10 + 2 * i, 8), direction(11 + 2 * i, 8)], []
        for one, said in zip(meant, both_at_once(meant, MEETINGS[met]), strict=True):
            if said.startswith("/"):
                paths.append(Path(said))
                outcome = "saved" if is_same(paths[-1], one) else "saved, but its file holds the other's"
            else:
                outcome = "refused, with the advice to try again" if "again" in said else said.partition(":")[0]
            outcomes[outcome] += 1
            faults += [] if outcome in ("saved", "refused, with the advice to try again") else [f"pair {i}: {outcome}: {said:.200}"]
        finals, rest = saved.others()
        faults += [f"pair {i} left {[path.name for path in (*finals, *rest)]}"] if finals != sorted(set(paths)) or rest else []
        for path in (*finals, *rest):
            path.unlink()
    figures(f"two savers at once, {where}, {met}", f"{count} pairs: " + ", ".join(f"{number} {what}" for what, number in outcomes.most_common()))
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
    assert taken.read_bytes() == b"of another program" and path != taken
    assert saved.others() == (sorted({taken, path} - {None}), [])

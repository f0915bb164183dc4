"""Tries damaged files under a memory limit, watched, and says what became of each.

A program: `trial FIRST LAST` tries the cases from FIRST to LAST - 1 and the known ones and prints JSON.
The standard error names the case at work.
"""

import gc
import json
import os
import resource
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from pack.core.avi.attribute import Pair, described
from pack.core.slider_file import KeptSlider, slider_tensors
from pack.core.svd.decomposition import compose
from pack.tests.campaigns.fuzz.cases import KNOWN, NEVER_VALID, Case
from pack.tests.campaigns.fuzz.files import load, saved, suffix_of, tensors_of, whole
from pack.tests.campaigns.fuzz.watch import Opened, Watched, memory, ran_out_of_memory

MB = 2**20
SLACK, MULTIPLE = 16 * MB, 8  # what loading may take, beside so many times the file's size
LONGEST = 2000  # characters of a message that can still be read


def used(thing):
    """What an edit of a small latent makes of it."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(thing, KeptSlider):
        return [*slider_tensors(thing)[0].values()]
    if not hasattr(thing, "kind"):
        h = torch.randn(2, thing.family.channels, 3, 5, generator=generator)
        emb = thing.embedded and torch.randn(2, thing.embedded, generator=generator)
        means = [] if thing.embedded else [thing.mean().shifts]
        return [*(thing.on(torch.device("cpu")).shift(h, sigma, emb).expand(h.shape) for sigma in (30.0, 7.0, 0.01)), *means]
    assert described(thing)
    results = []
    for part, _ in thing.parts:
        x, z = torch.randn(2, *part.stored.shape, generator=generator)
        results += [compose(part.stored), part.change(x, Pair(z, z))] if x.numel() < 10**5 else []
    return results


def base_of(thing):
    """A kind of file that is loaded as this one's."""
    return "slider" if isinstance(thing, KeptSlider) else "attribute" if hasattr(thing, "kind") else "table"


def check_sound(thing, folder):
    """Raises unless its tensors are finite floats, an edit with it works, and it saves and loads back as the same."""
    tensors, metadata = tensors_of(thing)
    for key, value in tensors.items():
        assert value.is_floating_point(), f"{key} is not finite"
        assert torch.isfinite(value).all(), f"{key} is not finite"
    try:
        results = used(thing)
    except ValueError as error:
        assert "NaN or Inf" in str(error), f"it cannot be used: {error}"  # finite parts whose sum is not
        return
    path = folder / "again.safetensors"
    path.write_bytes(saved(tensors, metadata))
    again = used(load(path, base_of(thing)))
    assert all(torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in zip(results, again, strict=True)), (
        "saved again, it is another"
    )


class Trial:
    """Loads damaged files in a folder of their own and notes what became of them."""

    def __init__(self, root):
        self.root, self.folder = root, root / "models"
        self.folder.mkdir()
        (root / "secret.safetensors").write_bytes(whole()["table"])
        os.chdir(root)
        self.opened, self.around = Opened(), Watched(root)
        self.files = len(os.listdir("/proc/self/fd"))

    def attempt(self, path, base, size):
        """The thing or the ValueError, and the peak of memory beyond what there was."""
        gc.collect()
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + 2 * path.stat().st_size + MULTIPLE * size + SLACK, -1))
        self.opened.watching = str(path.resolve())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                outcome = load(path, base)
        except ValueError as error:
            outcome = error
        finally:
            self.opened.watching = None
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        return outcome, memory("VmHWM") - before

    def faults(self, case, outcome, peak, size):
        """What is wrong with an outcome, in words."""
        if isinstance(outcome, ValueError):
            if f"file: {case.name}." not in str(outcome):
                yield f"the message does not name the file: {outcome!s:.200}"
            if len(str(outcome)) > LONGEST:
                yield f"the message has {len(str(outcome))} characters: {outcome!s:.100}..."
            if ran_out_of_memory(outcome):
                yield f"it asked for more memory than {MULTIPLE} times its {size} bytes and {SLACK // MB} MB: {outcome!s:.200}"
        else:
            if case.kind in {*NEVER_VALID, *KNOWN} and not case.harmless:
                yield "it was loaded"
            try:
                check_sound(outcome, self.root)
            except Exception as error:
                yield f"it was loaded, but {type(error).__name__}: {error!s:.200}"
            self.around.events()
        if peak > MULTIPLE * size + SLACK:
            yield f"loading took {peak / MB:.0f} MB for {size} bytes"

    def judge(self, case):
        path = self.folder / f"{case.name}{suffix_of(case.base)}"
        path.write_bytes(case.blob)
        size, peak = len(case.blob), 0
        try:
            outcome, peak = self.attempt(path, case.base, size)
            touched = [*self.opened.found, *(["the folder around it was touched"] if self.around.events() else [])]
            found, verdict = [*touched, *self.faults(case, outcome, peak, size)], "refused" if isinstance(outcome, ValueError) else "loaded"
        except BaseException as error:
            found, verdict = [f"{type(error).__name__}: {error!s:.200}"], "failed"
        self.opened.found.clear()
        path.unlink()
        del case.blob
        return {
            "kind": case.kind,
            "base": case.base,
            "verdict": verdict,
            "size": size,
            "peak": peak,
            "faults": [f"{case}: {fault}" for fault in found],
        }


def main(first, last):
    """Try the cases from first to last - 1 and the known ones."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for base, blob in whole().items():  # which also imports what torch imports on first use
            path = Path(folder, f"whole{suffix_of(base)}")
            path.write_bytes(blob)
            check_sound(load(path, base), Path(folder))
        trial, results = Trial(Path(folder)), {"cases": [], "known": []}
        gc.freeze()
        for cases, names, of in (("cases", range(first, last), Case.numbered), ("known", KNOWN, Case.known)):
            for name in names:
                case = of(name)
                print(case, file=sys.stderr, flush=True)
                results[cases].append(trial.judge(case))
        results["left"] = sorted(path.name for path in Path(folder).rglob("*") if path.stem not in ("whole", "again", "secret", "models"))
        results["open files"] = len(os.listdir("/proc/self/fd")) - trial.files
        json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Train the portrait models: VAE, text encoder, UNet, transformer, judge and scorer, within a given time.

`python -m demo.train --seconds 580 --out FOLDER` (with COMFYUI set) draws the faces, trains every part in its own
process, several at a time, and ends with the figures. Each part's weights are copied to the folder as soon as they exist and
while they improve; a part that fails is started again and goes on from its last state. Learning rates follow the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("vae", "text", "encode", "judge", "scorer", "unet", "dit", "figures-readers", "figures-unet", "figures-dit")
A_FACE = 256 * 256 * 3 + 4 * 32 * 32 * 2 + 1000  # bytes


@dataclass(frozen=True)
class Size:
    """How much of everything; `ends` are the shares of the time at which parts end, `until` those of the last files."""

    faces: int
    unseen: int
    batches: dict[str, int]
    at_least: int  # latents before the diffusion models begin
    crops: tuple[int, int]
    ends: dict[str, float]
    effort: dict[str, int]  # of the figures
    tripped: int = 10_000  # faces that judge and scorer also see as the VAE gives them back


BATCHES = {"vae": 128, "text": 512, "judge": 256, "scorer": 256, "unet": 256, "dit": 256, "encode": 128}
SHORT = {"text": 0.33, "vae": 0.36, "judge": 0.50, "scorer": 0.62, "draw": 0.72, "figures": 0.93, "all": 0.97}
SIZES = {
    "full": Size(
        250_000,
        2_000,
        BATCHES,
        20_000,
        (64, 128),
        {"text": 0.08, "vae": 0.21, "judge": 0.34, "scorer": 0.46, "draw": 0.885, "figures": 0.965, "all": 0.985},
        {},
    ),
    "smoke": Size(60_000, 1_000, BATCHES, 2_000, (64, 128), SHORT, {"rounds": 1}, tripped=2_000),
    "tiny": Size(
        192,
        12,
        {"vae": 4, "text": 32, "judge": 8, "scorer": 8, "unet": 4, "dit": 4, "encode": 8},
        16,
        (32, 64),
        SHORT,
        {"rounds": 1, "every": 16, "steps": 2},
        tripped=8,
    ),
}


class Run:
    """Folders, deadlines and processes of a run."""

    def __init__(self, options: argparse.Namespace):
        self.size, self.out, self.work = SIZES[options.size], options.out, options.work
        self.start, self.seconds = options.start, options.seconds

    def end(self, part: str) -> float:
        return self.start + self.seconds * self.size.ends[part]


# One part, in its own process.


def wait_for(*paths: Path, until: float) -> None:
    while not all(path.exists() for path in paths):
        if time.time() > until:
            raise TimeoutError(f"{', '.join(path.name for path in paths if not path.exists())} did not come in time")
        time.sleep(0.1)


def stage(name: str, run: Run) -> None:
    """One part of the run; the imports that take long are made before the wait for what it needs."""
    import torch

    if os.environ.get("COMFYUI"):
        sys.path.insert(0, os.environ["COMFYUI"])
    from comfy.cli_args import args as host_args

    host_args.use_pytorch_cross_attention = True  # read when the host's attention is first imported
    from . import data, diffusion, evaluate, judge, network, runs, scorer, text, vae

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    device, work, size = network.DEVICE, run.work, run.size
    train, unseen = data.Store(work / "train"), data.Store(work / "unseen")
    if device == "cuda":
        torch.zeros(1, device=device)
    ready = (work / vae.FILE, work / text.FILE)
    if name == "vae":
        vae.train(train, work, runs.Plan(run.end("vae")), device, size.batches["vae"], size.crops)
    elif name == "text":
        text.train(train, unseen, work, runs.Plan(run.end("text")), device, size.batches["text"])
    elif name == "encode":
        wait_for(ready[0], until=run.end("draw"))
        vae.encode_store(train, work, device, run.end("draw") - 0.03 * run.seconds, size.batches["encode"])
    elif name in ("judge", "scorer"):
        module = {"judge": judge, "scorer": scorer}[name]
        wait_for(*ready, *([work / judge.FILE] if name == "scorer" else []), until=run.end("draw"))
        module.train(train, work, runs.Plan(run.end(name)), device, size.batches[name], tripped=size.tripped)
    elif name in ("unet", "dit"):
        wait_for(*ready, until=run.end("draw"))
        recipe = replace(diffusion.RECIPES[name], batch=size.batches[name])
        diffusion.train(name, train, work, runs.Plan(run.end("draw")), device, recipe, at_least=size.at_least)
        (work / f"{name}.done").touch()
    elif name == "figures-readers":
        wait_for(*ready, until=run.end("figures"))
        evaluate.write(work, "readers", evaluate.of_readers(unseen, work, device, size.unseen))
    else:
        kind = name.removeprefix("figures-")
        late = run.end("draw") + 0.01 * run.seconds + 4
        while not (work / f"{kind}.done").exists() and time.time() < late:
            time.sleep(0.1)
        evaluate.write(work, kind, evaluate.of_model(kind, work, device, evaluate.Effort(**size.effort), run.end("figures")))


# All parts.


class Parts:
    """The processes of a run: started when it is time, started again when they fail."""

    def __init__(self, run: Run, options: argparse.Namespace):
        self.run, self.options = run, options
        self.processes: dict[str, subprocess.Popen] = {}
        self.tries: dict[str, int] = {}
        self.finished: dict[str, int] = {}

    def command(self, name: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "demo.train",
            "--stage",
            name,
            "--size",
            self.options.size,
            "--work",
            str(self.run.work),
            "--out",
            str(self.run.out),
            "--seconds",
            str(self.run.seconds),
            "--start",
            str(self.run.start),
        ]

    def begin(self, name: str) -> None:
        self.tries[name] = self.tries.get(name, 0) + 1
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "PYTHONUNBUFFERED": "1"}
        log = (self.run.work / f"log_{name}.txt").open("a")
        self.processes[name] = subprocess.Popen(self.command(name), cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        say(self.run, f"{name} begins" + (f", try {self.tries[name]}" if self.tries[name] > 1 else ""))

    def look(self) -> None:
        """Note which parts have ended; start those again that failed, twice at most."""
        for name, process in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self.processes[name]
            say(self.run, f"{name} ends" + ("" if code == 0 else f" with code {code}"))
            if code and self.tries[name] < 3 and time.time() < self.run.end("figures"):
                self.begin(name)
            else:
                self.finished[name] = code

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()


def say(run: Run, words: str) -> None:
    line = f"[{time.time() - run.start:6.1f} s] {words}"
    print(line, flush=True)
    with (run.work / "log_run.txt").open("a") as file:
        file.write(line + "\n")


def begin_drawing(run: Run, workers: int) -> list[subprocess.Popen]:
    """Start the drawing processes over two stores: faces for training, and unseen ones for the figures."""
    from . import data

    for name, count in (("unseen", run.size.unseen), ("train", fitting(run))):
        data.Store(run.work / name, count, workers)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "demo.data", str(run.work)]
    return [
        subprocess.Popen(
            [*command, str(worker)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.STDOUT,
            stdout=(run.work / f"log_drawing_{worker}.txt").open("a"),
        )
        for worker in range(workers)
    ]


def fitting(run: Run) -> int:
    """As many faces as the size names and the work folder's space allows."""
    return min(run.size.faces, int(0.8 * shutil.disk_usage(run.work).free / A_FACE))


def room() -> Path:
    """A folder for drawn faces: shared memory if it is large, else the disk."""
    roomy = [folder for folder in (Path("/dev/shm"), Path("/tmp")) if folder.is_dir()]
    large = [folder for folder in roomy if shutil.disk_usage(folder).free > 20e9]
    return (large or sorted(roomy, key=lambda folder: -shutil.disk_usage(folder).free))[0] / "portrait"


def publish(run: Run) -> None:
    """Copy what there is to the folder of results: five files of weights and figures, a sheet, the log and the losses."""
    from . import diffusion, judge, scorer, text, vae

    for name in diffusion.FILES.values():
        copy_if_new(run.work / name, run.out / name)
    codec = vae.FILE if (run.work / vae.FILE).exists() else "vae_so_far.safetensors"
    together(run, "portrait_shared.safetensors", {"vae.": codec, "text.": text.FILE})
    together(run, "portrait_readers.safetensors", {"judge.": judge.FILE, "scorer.": scorer.FILE})
    figures = {path.stem.removeprefix("figures_"): json.loads(path.read_text()) for path in sorted(run.work.glob("figures_*.json"))}
    whole(run.out / "figures.json", json.dumps(figures, indent=1).encode())
    logs = [
        f"==== {path.stem}\n{path.read_text(errors='replace')[-60_000:]}"
        for path in sorted(run.work.glob("log_*.txt"))
        if path.stat().st_size
    ]
    whole(run.out / "log.txt", "\n".join(logs).encode())
    rows = [f"{path.stem},{line}" for path in sorted(run.work.glob("*.csv")) for line in path.read_text().splitlines()]
    whole(run.out / "training.csv", "\n".join(rows).encode())
    save_sheets(run)


def whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def copy_if_new(source: Path, target: Path) -> None:
    if source.exists() and (not target.exists() or target.stat().st_mtime < source.stat().st_mtime):
        whole(target, source.read_bytes())


def together(run: Run, name: str, parts: dict[str, str]) -> None:
    """One file of several, their keys behind prefixes."""
    from . import runs

    there = {prefix: run.work / file for prefix, file in parts.items() if (run.work / file).exists()}
    target = run.out / name
    if not there or (target.exists() and target.stat().st_mtime > max(path.stat().st_mtime for path in there.values())):
        return
    read = {prefix: runs.read(path) for prefix, path in there.items()}
    tensors = {prefix + key: value for prefix, (some, _) in read.items() for key, value in some.items()}
    notes = {prefix + key: value for prefix, (_, some) in read.items() for key, value in some.items() if key != "format"}
    runs.write(target, tensors, **notes)


def save_sheets(run: Run) -> None:
    """The picture of the model card, from the sheets that there are."""
    from . import sheets

    picture = sheets.together(run.work)
    if picture:
        partial = run.out / ".sheets.partial"
        picture.save(partial, "JPEG", quality=88)
        partial.replace(run.out / "sheets.jpg")


def begin_check(run: Run, gpu: bool) -> subprocess.Popen:
    """A process that fails in the first seconds if a module, the host or the GPU is missing."""
    code = (
        "import sys, torch; from demo import network, drawing, faces, evaluate; import numpy as np; "
        "drawing.render(faces.sample_face(np.random.default_rng(0))); print(network.DEVICE, torch.__version__, flush=True); "
        "made = (network.vae(), network.text_model(), network.unet(), network.transformer(), network.scorer()); "
        "n = [sum(p.numel() for p in m.parameters()) for m in made]; "
        "print('parameters: vae %d, text %d, unet %d, dit %d, scorer %d' % tuple(n), flush=True); "
        f"sys.exit({gpu} and network.DEVICE != 'cuda')"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=(run.work / "log_check.txt").open("w"), stderr=subprocess.STDOUT)


def cannot_go_on(run: Run, check: subprocess.Popen, parts: Parts) -> str | None:
    """Why the run cannot come to anything, if so."""
    if check.poll():
        return "something is missing: " + (run.work / "log_check.txt").read_text()[-2000:]
    lost = [name for name in ("vae", "text") if parts.finished.get(name) and not list(run.work.glob(f"{name}*.safetensors"))]
    return f"{', '.join(lost)} failed: " + (run.work / f"log_{lost[0]}.txt").read_text()[-2000:] if lost else None


def train_all(run: Run, options: argparse.Namespace) -> None:
    run.work.mkdir(parents=True, exist_ok=True)
    run.out.mkdir(parents=True, exist_ok=True)
    (run.work / "stop").unlink(missing_ok=True)
    say(run, f"work in {run.work}, {shutil.disk_usage(run.work).free / 1e9:.0f} GB free, {os.cpu_count()} cores; {fitting(run)} faces")
    check, drawing = begin_check(run, options.gpu), begin_drawing(run, options.workers)
    parts, published, reason = Parts(run, options), time.time(), None
    ahead = min(15.0, 0.12 * run.seconds)  # seconds that a process takes to start
    begins = {"vae": 0.0, "text": 0.0} | dict.fromkeys(("encode", "judge", "unet", "dit"), run.end("vae") - ahead)
    begins |= {
        "scorer": run.end("judge") - ahead,
        "figures-readers": run.end("scorer") + 1,
        "figures-unet": run.end("draw") - ahead,
        "figures-dit": run.end("draw") - ahead,
    }
    wanted = [name for name in STAGES if name in options.parts]
    while time.time() < run.end("all") and set(parts.finished) != set(wanted):
        for name in wanted:
            if name not in parts.tries and time.time() >= begins[name] and (name != "figures-readers" or settled(parts)):
                parts.begin(name)
        parts.look()
        rescue(run, parts)
        if reason := cannot_go_on(run, check, parts):
            say(run, reason)
            break
        if time.time() - published > 10:
            published = time.time()
            report(run)
        time.sleep(0.2)
    (run.work / "stop").touch()
    parts.stop()
    for process in (*drawing, check):
        process.terminate()
    report(run)
    say(run, summary(run))
    say(run, f"done; {sorted(parts.finished.items())}; still running: {sorted(parts.processes)}")
    whole(run.out / "log.txt", (run.out / "log.txt").read_bytes() + f"\nended after {time.time() - run.start:.0f} s\n".encode())
    if reason:
        raise SystemExit(reason)


def summary(run: Run) -> str:
    """The last lines of the parts' logs and the single figures."""
    lines = []
    for path in sorted(run.work.glob("log_*.txt")):
        if "run" not in path.stem and "drawing" not in path.stem:
            told = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
            lines += [f"{path.stem}: {line[:300]}" for line in told[-2:]]
    return "\n".join(lines)


def settled(parts: Parts) -> bool:
    """Whether the scorer has ended, or will not come."""
    late = parts.run.end("draw") - 0.05 * parts.run.seconds
    return "scorer" in parts.finished or "scorer" not in parts.options.parts or time.time() > late


def rescue(run: Run, parts: Parts) -> None:
    """Where the VAE did not end well, go on with what it had."""
    from . import vae

    so_far, final = run.work / "vae_so_far.safetensors", run.work / vae.FILE
    if time.time() > run.end("vae") + 0.04 * run.seconds and so_far.exists() and not final.exists():
        shutil.copy(so_far, run.work / ".vae.partial")
        (run.work / ".vae.partial").replace(final)
        say(run, "the VAE did not end well: its last saved weights are used")


def report(run: Run) -> None:
    """Publish and say how far the run is; a copy that fails must not end the run, and is made the next time."""
    try:
        publish(run)
        progress(run)
    except Exception as error:
        say(run, f"could not publish now: {error!r}")


def progress(run: Run) -> None:
    from . import data

    stores = data.Store(run.work / "train")
    lines = {path.stem: path.read_text().splitlines()[-1] for path in sorted(run.work.glob("*.csv"))}
    rate = stores.ready() / stores.workers / max(1e-3, time.time() - run.start)
    words = [f"drawn {stores.ready()} ({rate:.0f} a second and process so far), encoded {int(stores.encoded[0])}"]
    say(run, "; ".join(words + [f"{name} {line}" for name, line in lines.items()]))


def main() -> None:
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=580.0)
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--smoke", action="store_true", help="every part at its real size for seconds, to find errors")
    parser.add_argument("--out", type=Path, default=ROOT / "demo/.cache/portrait/out")
    parser.add_argument("--work", type=Path, default=None, help="folder of drawn faces and states (100 GB at full size)")
    parser.add_argument("--workers", type=int, default=max(1, cores - 4), help="drawing processes")
    parser.add_argument("--gpu", action="store_true", help="fail at once if there is no GPU")
    parser.add_argument("--parts", nargs="*", default=STAGES)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=float, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.size = "smoke" if options.smoke else options.size
    options.start, options.work = options.start or time.time(), options.work or room()
    run = Run(options)
    if options.stage:
        stage(options.stage, run)
    else:
        train_all(run, options)


if __name__ == "__main__":
    main()

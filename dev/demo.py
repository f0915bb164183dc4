"""Runs an example workflow in a headless ComfyUI and keeps its picture in output/."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from .server import ROOT, Host, HostError, device_arguments, failed_import
from .workflow import WorkflowError, to_prompt

OUTPUT = ROOT / "output"
WIDEST = 1024  # pixels of a template's picture


def first_workflow():
    """The example that a newcomer is shown first."""
    found = sorted((ROOT / "workflows").glob("*.json"))
    if not found:
        raise WorkflowError(f"there is no workflow in {ROOT / 'workflows'}")
    return found[0]


def progress_line(prompt):
    """A callback that shows which node is at work and how far it is."""

    def show(kind, data):
        if kind != "progress" or data["node"] not in prompt:
            return
        done = data["value"] == data["max"]
        if done or sys.stderr.isatty():
            title = prompt[data["node"]]["_meta"]["title"]
            print(f"\r  {title}: {data['value']}/{data['max']} ", end="\n" if done else "", file=sys.stderr, flush=True)

    return show


def run(path):
    """Run a workflow; the files of the pictures that it saved."""
    print("starting ComfyUI", file=sys.stderr)
    with Host(os.environ["COMFYUI"], output=OUTPUT, arguments=device_arguments()) as host:
        problem = failed_import(host.log)
        if problem:
            raise HostError(f"ComfyUI could not load the pack:\n{problem}")
        print(f"running {path.name}", file=sys.stderr)
        prompt = to_prompt(json.loads(path.read_text()), host.client.object_info())
        images = host.client.run(prompt, progress_line(prompt)).images()
    if not images:
        raise HostError(f"{path.name} saved no picture; it needs a Save Image node")
    return [OUTPUT / image["subfolder"] / image["filename"] for image in images]


def keep(pictures, path):
    """Write pictures one below another, as small as the list of templates shows them, into a JPEG."""
    from PIL import Image

    opened = [Image.open(picture).convert("RGB") for picture in pictures]
    together = Image.new("RGB", (max(one.width for one in opened), sum(one.height for one in opened)))
    for i, one in enumerate(opened):
        together.paste(one, (0, sum(above.height for above in opened[:i])))
    together.thumbnail((WIDEST, 4 * WIDEST), Image.Resampling.LANCZOS)
    together.save(path, quality=88, optimize=True)


def main():
    """Run the workflow of the command line and print where its pictures are."""
    parser = argparse.ArgumentParser(prog="dev.demo", description=__doc__)
    parser.add_argument("workflow", nargs="?", type=Path, help="a workflow file; the first example if left out")
    parser.add_argument("--keep", action="store_true", help="make what it draws the picture that ComfyUI's list of templates shows")
    options, start = parser.parse_args(), time.monotonic()
    path = options.workflow or first_workflow()
    pictures = run(path)
    if options.keep:
        keep(pictures, path.with_suffix(".jpg"))
    print(f"done in {time.monotonic() - start:.0f} s", file=sys.stderr)
    print(*pictures, sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (HostError, WorkflowError, OSError) as problem:
        sys.exit(f"demo: {problem}")
    except KeyboardInterrupt:
        sys.exit(1)

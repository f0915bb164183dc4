"""Graphs in API format for a server, what becomes of them, and servers with packs beside ours."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load

from pack.dev.server import PACK, HostError
from pack.dev.workflow import default, is_widget

ROOT = Path(__file__).resolve().parent.parent.parent
PREFIX = "SemanticLatents_"
CHECKPOINT = "semantic_latents_portrait.safetensors"


class Graph(dict):
    """Nodes by id, with their widgets' defaults; `graph.add("KSamplerSelect", sampler_name="euler")` is the new node's id."""

    def __init__(self, object_info):
        super().__init__()
        self.info = object_info

    def add(self, kind, /, **inputs):
        specs = self.info[kind]["input"].get("required", {})
        defaults = {slot: default(spec) for slot, spec in specs.items() if is_widget(spec)}
        name = str(len(self) + 1)
        self[name] = {"class_type": kind, "inputs": {**defaults, **inputs}}
        return name

    def out(self, kind, /, slot=0, **inputs):
        """An output of a new node."""
        return [self.add(kind, **inputs), slot]


class DemoGraph(Graph):
    """A graph that begins with the demo model and its prompts."""

    def __init__(self, object_info):
        super().__init__(object_info)
        loader = self.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
        self.model, self.vae = [loader, 0], [loader, 2]
        texts = {"source": "a portrait, short hair", "target": "a portrait, short hair, sunglasses", "negative": ""}
        self.prompts = {name: self.out("CLIPTextEncode", text=text, clip=[loader, 1]) for name, text in texts.items()}

    def own(self, name, /, **inputs):
        """A new node of the pack; its id."""
        return self.add(PREFIX + name, **inputs)

    def empty(self, batch=1, size=64):
        """Of a quarter of a picture's side, where a step takes 5 ms in place of 70."""
        return self.out("EmptyLatentImage", width=size, height=size, batch_size=batch)

    def sigmas(self, steps, denoise=1.0):
        return self.out("BasicScheduler", model=self.model, scheduler="normal", steps=steps, denoise=denoise)

    def sampler(self, name="euler"):
        return self.out("KSamplerSelect", sampler_name=name)

    def drawn(self, *, model=None, sampler=None, sigmas=None, steps=4, denoise=1.0, cfg=3.0, batch=1, size=64, seed=0):
        """The latent of a run under the source prompt."""
        return self.out(
            "SamplerCustom",
            model=model or self.model,
            noise_seed=seed,
            cfg=cfg,
            positive=self.prompts["source"],
            negative=self.prompts["negative"],
            sampler=sampler or self.sampler(),
            sigmas=sigmas or self.sigmas(steps, denoise),
            latent_image=self.empty(batch, size),
        )

    def save(self, latent):
        self.add("SaveLatent", samples=latent, filename_prefix="graph")
        return self


@dataclass
class Outcome:
    """How a prompt ended: "finished", "refused" by the host's validation, "failed" with an error, or "interrupted"."""

    kind: str
    message: str = ""
    error: dict = field(default_factory=dict)
    run: object = None


def outcome(client, graph, callback=lambda kind, data: None):
    """Run a graph to whatever end it takes."""
    seen = {}

    def follow(kind, data):
        seen[kind] = data
        callback(kind, data)

    try:
        return Outcome("finished", run=client.run(graph, follow))
    except HostError as problem:
        if "execution_interrupted" in seen:
            return Outcome("interrupted")
        if "execution_error" in seen:
            error = seen["execution_error"]
            return Outcome("failed", error["exception_message"].strip(), error)
        return Outcome("refused", str(problem))


def saved(host, run):
    """What a run saved with Save Latent and the pack's own nodes for saving: each file's header, and the bytes of its tensors."""
    outputs = run.outputs.values()
    own = [
        (host.folder / "output/semantic_latents" / name).read_bytes()
        for output in outputs
        for name in output.get("text", [])
        if name.endswith(".safetensors")
    ]
    files = [*own, *(host.client.image(reference) for output in outputs for reference in output.get("latents", []))]
    assert files, "it saved nothing"
    ends = [8 + int.from_bytes(file[:8], "little") for file in files]
    return [(json.loads(file[8:end]), file[end:]) for file, end in zip(files, ends, strict=True)]


def latents(client, run):
    """The latents that a run saved with Save Latent."""
    return [load(client.image(reference))["latent_tensor"] for output in run.outputs.values() for reference in output.get("latents", [])]


def base_directory(folder, packs):
    """A server's arguments for custom nodes of its own: packs, by name, as the text of a module or the folder to link."""
    place = Path(folder) / "custom_nodes"
    place.mkdir()
    for name, pack in packs.items():
        if isinstance(pack, Path):
            (place / name).symlink_to(pack, target_is_directory=True)
        else:
            (place / f"{name}.py").write_text(pack)
    return ["--cpu", f"--base-directory={folder}"]


def with_ours(**packs):
    """This pack as the server knows it, and others beside it."""
    return {PACK: ROOT, **packs}

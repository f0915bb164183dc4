"""A place to make pictures for pages: the demo model, the pack's nodes, and sheets of what they make."""

import asyncio
import textwrap
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bench.sizes import size
from bench.stage import Stage

FAINT = (120, 120, 126)
CFG, STEPS = 3.0, size(20, 5)
SHORTER = size({}, {"images": 5, "steps": 4, "seeds": 2, "epochs": 1, "iterations": 1, "refinements": 1})  # inputs that cost time
FACES = {  # prompt and seed
    "plain": ("a face", 900_001),
    "tan": ("a face, tan skin, green background", 900_006),
    "brown": ("a face, short brown hair", 900_000),
    "capped": ("a face, short brown hair", 900_002),
    "blond": ("a face, long blond hair, pale skin, white shirt", 5),
    "red": ("a face, curly red hair, pale skin, gray background", 7),
    "black": ("a face, brown skin, short black hair, yellow shirt, orange background", 2),
    "blue": ("a face, spiky blue hair, smiling, white background", 5),
    "smiling": ("a face, smiling, short brown hair, tan skin, blue background", 3),
}


def sheet(pictures, labels, columns=0, tile=96, title=""):
    """One picture (h, w, 3) of several with labels."""
    from pack.core.pictures.sheet import labelled_grid

    return labelled_grid(pictures, labels, columns=columns, tile=tile, title=title)[0]


def labels_of(strengths):
    return [f"strength {strength:+g}" if strength else "unedited" for strength in strengths]


def left_half():
    mask = torch.zeros(1, 32, 32)
    mask[..., :16] = 1
    return mask


def kept_sheet(path, pictures):
    """A sheet of the unedited picture, the edited one, and the one edited by what a file held."""
    apart = float((pictures[1] - pictures[2]).abs().max())
    return sheet(
        pictures,
        ["unedited", "as made", "saved, loaded"],
        tile=128,
        title=f"{path.name}, {path.stat().st_size / 1000:.0f} KB; differ by {apart:g}",
    )


def written(text, width):
    """Lines of text on a dark panel (h, width, 3)."""
    from pack.core.pictures.sheet import INK, PAPER

    font, lines = ImageFont.load_default(12), [line for whole in text.splitlines() for line in textwrap.wrap(whole, width // 6)]
    panel = Image.new("RGB", (width, 17 * len(lines) + 12), PAPER)
    ImageDraw.Draw(panel).multiline_text((8, 4), "\n".join(lines), INK, font, spacing=4)
    return as_picture(panel)


def table(pictures, texts, values, what):
    """Values (texts, pictures) below the pictures and beside the texts, the largest of each column bright."""
    from pack.core.pictures.sheet import INK, PAPER

    font, head, line, left = ImageFont.load_default(12), 64, 20, 128
    panel = Image.new("RGB", (left + head * len(pictures), head + line * len(texts) + 8), PAPER)
    pen = ImageDraw.Draw(panel)
    pen.multiline_text((8, 24), f"{what} of\nface and text", FAINT, font)
    for i, picture in enumerate(pictures):
        panel.paste(as_image(picture).resize((head, head), Image.Resampling.NEAREST), (left + i * head, 0))
    for row, text in enumerate(texts):
        pen.text((8, head + 4 + row * line), text, INK, font)
        for i, value in enumerate(values[row].tolist()):
            pen.text(
                (left + (i + 0.5) * head, head + 4 + row * line),
                f"{value:.2f}",
                INK if value == values[:, i].max() else FAINT,
                font,
                anchor="ma",
            )
    return as_picture(panel)


def as_image(picture):
    return Image.fromarray((picture * 255).round().to(torch.uint8).numpy())


def as_picture(image):
    return torch.from_numpy(np.asarray(image, np.float32) / 255)


class Studio(Stage):
    """The demo model, the pack's nodes, and what several pictures are made of."""

    def __init__(self, folder):
        import folder_paths
        from comfy.samplers import sampler_object
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        from pack import comfy_entrypoint

        folder_paths.set_temp_directory(folder)
        folder_paths.set_output_directory(folder)

        async def load():
            extension = await comfy_entrypoint()
            await extension.on_load()
            return await extension.get_node_list()

        self.pack = {node.define_schema().node_id.split("_", 1)[1]: node for node in asyncio.run(load())}
        super().__init__({"glasses": "sunglasses"})
        self.output, self.euler = Path(folder), sampler_object("euler")
        self.sigmas = BasicScheduler.execute(self.model, "normal", STEPS, 1.0).args[0]

    def node(self, name, **inputs):
        """The outputs of one of the pack's nodes; inputs that are not given are as the node starts."""
        schema = self.pack[name].define_schema()
        inputs = {port.id: port.default for port in schema.inputs if getattr(port, "default", None) is not None} | inputs
        inputs |= {key: SHORTER[key] for key in SHORTER.keys() & inputs.keys()}
        return self.pack[name].execute(**{key: [value] for key, value in inputs.items()} if schema.is_input_list else inputs).args

    def latent(self, face, *, more="", model=None, sampler=None):
        prompt, seed = FACES[face]
        return {"samples": self.sample(model or self.model, sampler or self.euler, self.sigmas, self.noise(1, seed), prompt + more, CFG)}

    def picture(self, latent):
        return self.vae.decode(latent["samples"])[0]

    def draw(self, face, **how):
        """A picture (h, w, 3) in 0..1."""
        return self.picture(self.latent(face, **how))

    def edited(self, face, direction, strength=1.0, *, sampler=None, **how):
        """A picture with a direction applied."""
        return self.draw(
            face, model=self.node("ApplyDirection", model=self.model, direction=direction, strength=strength, **how)[0], sampler=sampler
        )

    def steered(self, face, attribute, strength, **how):
        """A picture with an attribute applied."""
        return self.draw(face, sampler=self.node("ApplyAttribute", sampler=self.euler, attribute=attribute, strength=strength, **how)[0])

    def recoloured(self, face, gain, **way):
        """A picture whose colours are made stronger or weaker while it is drawn."""
        operation = self.node("SpectrumOperation", first=2, last=0, gain=gain, keep_energy=True, layout="joint")[0]
        return self.draw(face, sampler=self.node("EditDuringSampling", sampler=self.euler, operation=operation, **way)[0])

    def runs(self):
        """The inputs of a node that looks at runs of the model."""
        return dict(model=self.model, negative=self.encode(""), latent={"samples": self.empty()})

    def advanced(self, face):
        """The inputs of a node that draws as SamplerCustomAdvanced does."""
        from comfy_extras.nodes_custom_sampler import CFGGuider, RandomNoise

        prompt, seed = FACES[face]
        guider = CFGGuider.execute(self.model, self.encode(prompt), self.encode(""), CFG).args[0]
        return dict(
            noise=RandomNoise.execute(seed).args[0],
            guider=guider,
            sampler=self.euler,
            sigmas=self.sigmas,
            latent_image={"samples": self.empty()},
        )

    def shipped(self, name):
        return self.node("LoadDirection", file=f"demo_{name}.safetensors")[0]

    def svd(self, face):
        return self.node("Decompose", samples=self.latent(face))[0]

    def composed(self, svd):
        return self.picture(self.node("Compose", svd=svd)[0])

    @cached_property
    def beard(self):
        return self.shipped("beard")

    @cached_property
    def sunglasses(self):
        return self.shipped("sunglasses")

    @cached_property
    def shades(self):
        """The attribute that comes with the demo model, and what it says of itself."""
        return self.node("LoadAttribute", file="demo_attribute_sunglasses.safetensors")

    @cached_property
    def green(self):
        """What Train Attribute gives for a green background."""
        return self.node(
            "TrainAttribute",
            source=self.encode("a face"),
            target=self.encode("a face, green background"),
            vae=self.vae,
            sampler=self.euler,
            sigmas=self.sigmas,
            seed=900_002,
            seeds=16,
            **self.runs(),
        )

    @cached_property
    def hat(self):
        return self.node("DirectionFromPrompts", source=self.encode("a face"), target=self.encode("a face, hat"), **self.runs())[0]

    @cached_property
    def trajectory(self):
        return self.node("SampleTrajectory", **self.advanced("blond"))[1]

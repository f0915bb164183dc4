"""A place to make pictures for pages: the demo models, the pack's nodes, and sheets of what they make."""

import asyncio
import textwrap
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bench.sizes import size
from bench.stage import SOURCE, Stage

FAINT = (120, 120, 126)
CFG, STEPS = 3.0, size(20, 5)
SHORTER = size({}, {"images": 5, "steps": 4, "seeds": 2, "epochs": 1, "iterations": 1, "refinements": 1})  # inputs that cost time
FRONT = "facing the camera, no glasses, no hat, no beard"
FACES = {  # prompt and seed
    "red": (f"a portrait, curly red hair, {FRONT}, green background, white shirt", 2),
    "brown": (f"a portrait, short brown hair, {FRONT}, blue background, yellow shirt", 3),
    "blond": (f"a portrait, long blond hair, {FRONT}, pink background, blue shirt", 4),
    "black": (f"a portrait, curly black hair, {FRONT}, orange background, white shirt", 5),
    "bald": (f"a portrait, bald, {FRONT}, gray background, green shirt", 6),
    "blue": (f"a portrait, spiky blue hair, {FRONT}, white background, red shirt", 7),
    "plain": ("a portrait, smiling, facing the camera, blond hair, blue background, no beard", 20),
    "any": ("a portrait", 9),
}


def sheet(pictures, labels, columns=0, tile=192, title=""):
    """One picture (h, w, 3) of several with labels, each tile pixels wide."""
    from pack.core.pictures.sheet import labelled_grid

    return labelled_grid([shrunk(picture, tile) for picture in pictures], labels, columns=columns, tile=tile, title=title)[0]


def shrunk(picture, width):
    """A picture (h, w, 3) at a smaller width."""
    small = torch.nn.functional.interpolate(picture.movedim(-1, 0)[None], (width, width), mode="bilinear", antialias=True)
    return small[0].movedim(0, -1)


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
        title=f"{path.name}, {path.stat().st_size / 1000:.0f} KB; differ by {apart:g}",
    )


def written(text, width):
    """Lines of text on a dark panel (h, width, 3)."""
    from pack.core.pictures.sheet import INK, PAPER

    font, lines = ImageFont.load_default(12), [line for whole in text.splitlines() for line in textwrap.wrap(whole, width // 6)]
    panel = Image.new("RGB", (width, 17 * len(lines) + 12), PAPER)
    ImageDraw.Draw(panel).multiline_text((8, 4), "\n".join(lines), INK, font, spacing=4)
    return as_picture(panel)


def centred(picture, width):
    """A picture (h, w, 3) in the middle of a dark panel (h, width, 3)."""
    from pack.core.pictures.sheet import PAPER

    panel, left = (torch.tensor(PAPER) / 255).repeat(len(picture), width, 1), (width - picture.shape[1]) // 2
    panel[:, left : left + picture.shape[1]] = picture
    return panel


def table(pictures, texts, values, what):
    """Values (texts, pictures) below the pictures and beside the texts, the largest of each column bright."""
    from pack.core.pictures.sheet import INK, PAPER

    font, head, line, left = ImageFont.load_default(12), 112, 20, 144
    panel = Image.new("RGB", (left + head * len(pictures), head + line * len(texts) + 8), PAPER)
    pen = ImageDraw.Draw(panel)
    pen.multiline_text((8, 24), f"{what} of\nface and text", FAINT, font)
    for i, picture in enumerate(pictures):
        panel.paste(as_image(picture).resize((head, head)), (left + i * head, 0))
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
    """The demo model, the pack's nodes, and what several pictures are made of, at the size that its files were learned at."""

    side = 32

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

    def latent(self, face, *, words="", model=None, sampler=None):
        """The latent of a face; words: another prompt for its seed."""
        prompt, seed = FACES[face]
        return {"samples": self.sample(model or self.model, sampler or self.euler, self.sigmas, self.noise(1, seed), words or prompt, CFG)}

    def picture(self, latent):
        return self.vae.decode(latent["samples"])[0]

    def draw(self, face, **how):
        """A picture (h, w, 3) in 0..1."""
        return self.picture(self.latent(face, **how))

    def slider(self, strength, words, **how):
        """The model under Make Slider."""
        return self.node("MakeSlider", model=self.model, clip=self.clip, strength=strength, wanted=f"{SOURCE}, {words}", **how)[0]

    def slid(self, face, strength, words, **how):
        """A picture with a slider of words."""
        return self.draw(face, model=self.slider(strength, words, **how))

    def edited(self, face, direction, strength=1.0, *, sampler=None, **how):
        """A picture with a direction applied."""
        return self.draw(
            face, model=self.node("ApplyDirection", model=self.model, direction=direction, strength=strength, **how)[0], sampler=sampler
        )

    def steered(self, face, attribute, strength, **how):
        """A picture with an attribute applied."""
        return self.draw(face, sampler=self.node("ApplyAttribute", sampler=self.euler, attribute=attribute, strength=strength, **how)[0])

    def recoloured(self, face, strength, **way):
        """A picture whose colours are made stronger or weaker while it is drawn."""
        operation = self.node("SpectrumOperation", first=2, last=0, gain=1.8, keep_energy=True, strength=strength, layout="joint")[0]
        return self.draw(face, sampler=self.node("EditDuringSampling", sampler=self.euler, operation=operation, **way)[0])

    def kept(self, kind, thing, name):
        """A direction or an attribute, the same from the file that it was saved to, and the file."""
        self.node(f"Save{kind}", **{kind.lower(): thing}, filename_prefix=name)
        path = next(self.output.rglob(f"{name}_*.safetensors"))
        return thing, self.node(f"Load{kind}", file=path.name)[0], path

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

    def svd(self, face):
        return self.node("Decompose", samples=self.latent(face))[0]

    def composed(self, svd):
        return self.picture(self.node("Compose", svd=svd)[0])

    @cached_property
    def smile(self):
        """The slider that Make Slider hands on for a smile, with words for its opposite."""
        words = dict(wanted=f"{SOURCE}, big smile", opposite=f"{SOURCE}, very sad")
        return self.node("MakeSlider", model=self.model, clip=self.clip, **words)[1]

    @cached_property
    def shades(self):
        """The attribute that comes with the demo model, and what it says of itself."""
        return self.node("LoadAttribute", file="portrait_attribute_sunglasses.safetensors")

    @cached_property
    def hat(self):
        """What Train Attribute gives for a hat."""
        return self.node(
            "TrainAttribute",
            source=self.encode(SOURCE),
            target=self.encode(f"{SOURCE}, hat"),
            vae=self.vae,
            sampler=self.euler,
            sigmas=self.sigmas,
            seed=900_002,
            seeds=16,
            **self.runs(),
        )

    @cached_property
    def discovered(self):
        """What Discover Directions finds by principal components: directions and their labels."""
        return self.node("DiscoverDirections", positive=self.encode(SOURCE), images=48, steps=12, **self.runs())[:2]

    @cached_property
    def trajectory(self):
        return self.node("SampleTrajectory", **self.advanced("blond"))[1]

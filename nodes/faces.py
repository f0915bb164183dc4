"""A picture to try things on where there is no photograph: a face that the demo model was not trained on."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..demo import faces, prompts
from .types import CATEGORY

UNSEEN = 1_000_003  # the demo model's training faces come from other random streams


class DrawnFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SemanticLatents_DrawnFace",
            display_name="Drawn Face",
            category=CATEGORY,
            description="Draws a cartoon face by code, with a text that says what it shows: a picture to invert and edit with the demo model.",
            search_aliases=["demo face", "test image", "example picture", "cartoon"],
            inputs=[
                io.Int.Input("number", default=0, min=0, max=1_000_000, tooltip="Which face; each number is another one. None was used to train the demo model."),
                io.Int.Input("size", default=faces.SIZE, min=16, max=1024, tooltip=f"Width and height in pixels; the demo model draws {faces.SIZE}."),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The picture, for VAE Encode."),
                io.String.Output("caption", tooltip="What it shows, in the demo model's words; for CLIP Text Encode."),
            ],
        )

    @classmethod
    def execute(cls, number, size) -> io.NodeOutput:
        face = faces.sample_face(np.random.default_rng([UNSEEN, number]))
        image = torch.from_numpy(faces.render(face, size).copy())[None].float() / 255
        shown = {name: value for name, value in face.labels.items() if name != "hair" or faces.hair_is_visible(face.labels)}
        return io.NodeOutput(image, prompts.prompt_for(shown), ui=ui.PreviewImage(image, cls=cls))


NODES = [DrawnFace]

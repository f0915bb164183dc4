"""The nodes of the pack, as ComfyUI sees them."""

import logging

from comfy_api.latest import ComfyExtension, io

from .. import demo
from ..host.folders import register_folders
from . import (
    avi,
    calibration,
    directions,
    files,
    guidance,
    pictures,
    pixel,
    sampling,
    schedule,
    sliders,
    strip,
    svd,
    train_direction,
    train_slider_lora,
    trajectories,
)


class SemanticLatents(ComfyExtension):
    async def on_load(self) -> None:
        try:
            demo.install()
            register_folders(demo.SLIDERS)
        except Exception:
            logging.exception("Semantic Latents could not be set up")  # ComfyUI itself prints one line only
            raise

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        rooms = (
            sliders,
            calibration,
            strip,
            pixel,
            svd,
            sampling,
            directions,
            train_direction,
            train_slider_lora,
            schedule,
            guidance,
            avi,
            files,
            trajectories,
            pictures,
        )
        return [node for room in rooms for node in room.NODES]

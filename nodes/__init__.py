"""The nodes of the pack, as ComfyUI sees them."""

import logging

from comfy_api.latest import ComfyExtension, io

from .. import demo
from . import attributes, comparison, directions, files, processes, sampling, schedules, scoring, sheets, spectrum, training, trajectories


class SemanticLatents(ComfyExtension):
    async def on_load(self) -> None:
        try:
            demo.install()
            files.register_folder()
        except Exception:
            logging.exception("Semantic Latents could not be set up")  # ComfyUI itself prints one line only
            raise

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        rooms = (
            spectrum,
            sampling,
            directions,
            training,
            schedules,
            scoring,
            attributes,
            files,
            processes,
            trajectories,
            comparison,
            sheets,
        )
        return [node for room in rooms for node in room.NODES]

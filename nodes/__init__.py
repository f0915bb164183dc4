"""The nodes of the pack, as ComfyUI sees them."""

from comfy_api.latest import ComfyExtension, io

from .. import demo
from . import attributes, directions, files, processes, sampling, sheets, spectrum


class SemanticLatents(ComfyExtension):
    async def on_load(self) -> None:
        demo.install()
        files.register_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*spectrum.NODES, *sampling.NODES, *directions.NODES, *attributes.NODES, *files.NODES, *processes.NODES, *sheets.NODES]

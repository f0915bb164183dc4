"""What a node tells its user: the host's progress bar, which brings Cancel along, previews, and lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import comfy.model_management
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..core.pictures.sheet import labelled_grid
from ..core.sampling.steering import Callback

TOLD: WeakSet[object] = WeakSet()  # edits of which the log has said that they do not act in a run
Cancelled = comfy.model_management.InterruptProcessingException  # the host's exception when the user has cancelled
OF_THE_HOST = "latent_preview"  # the module that the callbacks of its sampler nodes are of
RGB_SIDE, DECODED_SIDE = 512, 128  # of a preview, in latent pixels: taken as colours, or decoded by the host's small decoders


class Bar:
    """A progress bar of so many ticks; with a model, ticks can show its latents."""

    def __init__(self, total: int, model: ModelPatcher | None = None) -> None:
        self.bar, self.done = comfy.utils.ProgressBar(total), 0
        self.previewer = None if model is None else previewer_for(model)

    def tick(self, latents: Tensor | None = None, columns: int = 0) -> None:
        """One step on. Latents (b, c, ..., h, w), as the model foresees them, are shown in rows of so many columns, 0 for one row.

        Raises the host's exception if the user has cancelled.
        """
        check_cancelled()
        self.done += 1
        self.bar.update_absolute(self.done, preview=self._preview(latents, columns))

    def _preview(self, latents: Tensor | None, columns: int) -> tuple[str, Image.Image, int] | None:
        if latents is None or self.previewer is None:
            return None
        sheet = rearrange(latents, "(r c) k ... h w -> 1 k ... (r h) (c w)", c=columns or len(latents))
        side = RGB_SIDE if isinstance(self.previewer, latent_preview.Latent2RGBPreviewer) else DECODED_SIDE
        stride = -(-max(sheet.shape[-2:]) // side)
        return self.previewer.decode_latent_to_preview_image("JPEG", sheet[..., ::stride, ::stride].float())

    def show(self, rows: list[Tensor]) -> None:
        """Pictures (b, h, w, 3), row by row."""
        self._send(labelled_grid([picture for row in rows for picture in row], columns=len(rows[0]), tile=128), "JPEG", 512)

    def end(self, picture: Tensor) -> Tensor:
        """The node's own picture (1, h, w, 3), shown in the place of the last preview, which the frontend would leave over it."""
        self._send(picture, "PNG", None)
        return picture

    def _send(self, picture: Tensor, kind: str, largest: int | None) -> None:
        pixels = Image.fromarray((picture[0] * 255).round().to(torch.uint8).cpu().numpy())
        self.bar.update_absolute(self.done, preview=(kind, pixels, largest))


def previewer_for(model: ModelPatcher) -> latent_preview.LatentPreviewer | None:
    """The previewer chosen in the host; where none is, the colours of the latents, which cost nothing.

    None if the host knows no colours for them.
    """
    latent_format = model.get_model_object("latent_format")
    chosen = latent_preview.get_previewer(model.load_device, latent_format)
    if chosen is None and latent_format.latent_rgb_factors is not None:
        reshape = getattr(latent_format, "latent_rgb_factors_reshape", None)
        chosen = latent_preview.Latent2RGBPreviewer(latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias, reshape)
    return chosen


def preview_of_run(model: ModelPatcher, steps: int) -> Callable[[int, Tensor, Tensor, int], None]:
    """The callback with which the host's own sampler nodes show a run."""
    return latent_preview.prepare_callback(model, steps)


def shows_alone(callback: object) -> bool:
    """Whether a run's callback is that of the host's own sampler nodes, which shows the run and hands nothing on."""
    return getattr(callback, "__module__", "") == OF_THE_HOST


def check_cancelled() -> None:
    """Raise the host's exception if the user has cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def interruptible(tick: Callable[[Tensor], None] = lambda denoised: None) -> Callback:
    """A sampler's callback in runs that the user does not see: Cancel works at every step; tick gets the foreseen latents."""

    def callback(state: dict[str, Any]) -> None:
        check_cancelled()
        tick(state["denoised"])

    return callback


def tell_once(edit: object, text: str) -> None:
    """Put into the log, once for each edit however many runs it is in, why it does not act in a run."""
    if edit not in TOLD:
        TOLD.add(edit)
        logging.warning("Semantic Latents: %s", text)

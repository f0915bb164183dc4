"""What other nodes do to calls of the model: on tiles, on windows, on some of the latents."""

import torch

from pack.tests.wiring import node

CUTS = {  # a tile of (rows, columns) at a time, or some in one call; prompts within tiles, or tiles within prompts
    "one tile a call": (1, "tiles"),
    "two tiles a call": (2, "tiles"),
    "all tiles in one call": (4, "tiles"),
    "all tiles, prompt by prompt": (4, "prompts"),
}


def tiled(model, cut, tile=8, change=lambda x: x, roll=0):
    """A patch such as the packs for large pictures have: it leaves cond_or_uncond as it is."""
    together, order = CUTS[cut]

    def repeated(value, rows):
        if not isinstance(value, torch.Tensor):
            return value
        batch = value.chunk(rows) if order == "prompts" else [value]
        return torch.cat([part for part in batch for _ in range(together)])

    def wrapper(apply, args):
        x, count = args["input"].roll(roll, -1), len(args["cond_or_uncond"])
        places = [(top, left) for top in range(0, x.shape[2], tile) for left in range(0, x.shape[3], tile)]
        result = torch.zeros_like(x)
        for some in (places[i : i + together] for i in range(0, len(places), together)):
            tiles = [change(x[:, :, top : top + tile, left : left + tile]) for top, left in some]
            rows = torch.cat(tiles) if order == "tiles" else torch.cat([t.chunk(count)[i] for i in range(count) for t in tiles])
            told = {key: repeated(value, count) for key, value in args["c"].items()}
            out = apply(rows, repeated(args["timestep"], count), **told)
            if order == "prompts":
                out = torch.cat([part.chunk(together)[i] for i in range(together) for part in out.chunk(count)])
            for (top, left), part in zip(some, out.chunk(len(some)), strict=True):
                result[:, :, top : top + tile, left : left + tile] = part
        return result.roll(-roll, -1)

    patched = model.clone()
    patched.set_model_unet_function_wrapper(wrapper)
    return patched


def windowed(model, **changes):
    settings = dict(
        context_length=8,
        context_overlap=0,
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="flat",
        dim=0,
        freenoise=False,
    )
    return node("context_windows.ContextWindowsManualNode", model=model, **{**settings, **changes})

"""Blocks in the layouts that Asyrp's authors released, with random weights, and their formula written from the paper."""

from collections import OrderedDict

import torch

FORMS = ("DDPM", "ADM")
CHANNELS, EMBEDDED = 64, 128
KEYS = {  # by what they are in the formula: W1, Wt, the norm between, W2, and ADM's first norm
    "DDPM": dict(first="conv1", time="temb_proj", norm="norm2", last="conv2"),
    "ADM": dict(entry="in_layers.0", first="in_layers.2", time="emb_layers.1", norm="out_layers.0", last="out_layers.3"),
}
EPS = {"DDPM": 1e-6, "ADM": 1e-5}


def weights(form, channels=CHANNELS, embedded=EMBEDDED, seed=0):
    """A block's state_dict."""
    generator, result = torch.Generator().manual_seed(seed), OrderedDict()
    for part, name in KEYS[form].items():
        if part in ("entry", "norm"):
            result[f"{name}.weight"] = 1 + 0.3 * torch.randn(channels, generator=generator)
        else:
            inputs = embedded if part == "time" else channels
            shape = (channels, inputs) if part == "time" else (channels, inputs, 1, 1)
            result[f"{name}.weight"] = torch.randn(shape, generator=generator) * inputs**-0.5
        result[f"{name}.bias"] = 0.3 * torch.randn(channels, generator=generator)
    return result


def file_of(block, **more):
    """What a released file holds beside the block: the states of an optimiser and of a schedule."""
    state = {"state": {i: {"momentum_buffer": None} for i in range(len(block))}, "param_groups": [{"lr": 0.5, "params": [0, 1]}]}
    return {"0": block, "optimizer": state, "scheduler": {"step_size": 20, "gamma": 0.9, "base_lrs": [0.5], "last_epoch": 0}, **more}


def silu(x):
    return x / (1 + torch.exp(-x))


def group_norm(x, weight, bias, eps):
    groups = x.reshape(len(x), 32, -1)
    centred = groups - groups.mean(2, keepdim=True)
    normed = (centred / torch.sqrt(centred.square().mean(2, keepdim=True) + eps)).reshape(x.shape)
    return normed * weight[:, None, None] + bias[:, None, None]


def shift_of(form, block, h, emb):
    """W2 SiLU(GN(W1 h + b1 + Wt SiLU(emb) + bt)) + b2; of ADM with SiLU(GN(h)) in the place of h. h: (b, c, y, x), emb: (b, e)."""
    part = {name: (block[f"{key}.weight"], block[f"{key}.bias"]) for name, key in KEYS[form].items()}

    def conv(name, x):
        weight, bias = part[name]
        return torch.einsum("oi,biyx->boyx", weight[..., 0, 0], x) + bias[:, None, None]

    weight, bias = part["time"]
    inner = silu(group_norm(h, *part["entry"], EPS[form])) if form == "ADM" else h
    inner = conv("first", inner) + (silu(emb) @ weight.T + bias)[:, :, None, None]
    return conv("last", silu(group_norm(inner, *part["norm"], EPS[form])))

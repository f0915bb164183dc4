"""Pixel-space networks written from the papers' formulas, in the key layouts of the public checkpoints, and those checkpoints' shapes."""

import math

import torch
from torch import nn
from torch.nn import functional as F

SIX, FIVE = (1, 1, 2, 2, 4, 4), (1, 1, 2, 3, 4)
P2 = dict(layout="guided diffusion", width=128, multipliers=SIX, blocks=1, attention=(4,), scale_shift=True, resamples=True, outputs=6)
ADM = dict(P2, width=256, blocks=2, attention=(3, 4, 5))
IDDPM = dict(layout="guided diffusion", width=128, blocks=3, scale_shift=True, outputs=6)
DDPM = dict(layout="DDPM", width=128, multipliers=SIX, blocks=2, attention=(4,))
CHECKPOINTS = {  # by the table of public networks; attention: the levels that have it, the pictures' own resolution first
    "DDPM CelebA-HQ, LSUN 256": DDPM,
    "DDPM 256, by diffusers": dict(DDPM, layout="diffusers"),
    "DDIM CelebA 64": dict(DDPM, multipliers=(1, 2, 2, 2, 4), attention=(2,)),
    "DDIM CIFAR-10": dict(DDPM, multipliers=(1, 2, 2, 2), attention=(1,)),
    "P2, ILVR 256": P2,
    "ADM ImageNet, LSUN 256": ADM,
    "ADM ImageNet 512": dict(ADM, multipliers=(0.5, *SIX), attention=(4, 5, 6), classes=1000),
    "ADM ImageNet 128": dict(ADM, multipliers=FIVE, attention=(2, 3, 4), classes=1000),
    "ADM ImageNet 64": dict(ADM, width=192, multipliers=(1, 2, 3, 4), blocks=3, attention=(1, 2, 3), classes=1000),
    "iDDPM LSUN bedroom 256": dict(IDDPM, multipliers=SIX, blocks=2, attention=(4,), scale_shift=False),
    "iDDPM ImageNet 64": dict(IDDPM, multipliers=(1, 2, 3, 4), attention=(2, 3)),
    "iDDPM CIFAR-10": dict(IDDPM, multipliers=(1, 2, 2, 2), attention=(1, 2)),
}
H = {  # channels and side of h, at the size that the network was trained at
    "DDIM CIFAR-10": (256, 4, 32),
    "DDIM CelebA 64": (512, 4, 64),
    **dict.fromkeys(("ADM ImageNet, LSUN 256",), (1024, 8, 256)),
    "ADM ImageNet 512": (1024, 8, 512),
    "ADM ImageNet 128": (1024, 8, 128),
    "ADM ImageNet 64": (768, 8, 64),
    "iDDPM ImageNet 64": (512, 8, 64),
    "iDDPM CIFAR-10": (256, 4, 32),
}
READ = {  # heads at h, order, schedule, steps
    "ADM ImageNet, LSUN 256": (16, "by head", "linear", 1000),
    "ADM ImageNet 512": (16, "by head", "linear", 1000),
    "ADM ImageNet 128": (4, "by head", "linear", 1000),
    "ADM ImageNet 64": (12, "by kind", "cosine", 1000),
    "P2, ILVR 256": (8, "by head", "linear", 1000),
    "iDDPM LSUN bedroom 256": (1, "by head", "linear", 1000),
    "iDDPM ImageNet 64": (4, "by head", "cosine", 4000),
    "iDDPM CIFAR-10": (4, "by head", "cosine", 4000),
}
NAMES = {
    "DDPM": dict(
        norm1="norm1", conv1="conv1", emb="temb_proj", norm2="norm2", conv2="conv2", skip="nin_shortcut",
        norm="norm", q="q", k="k", v="v", proj="proj_out",
        time1="temb.dense.0", time2="temb.dense.1", stem="conv_in", norm_out="norm_out", out="conv_out",
        middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    ),
    "diffusers": dict(
        norm1="norm1", conv1="conv1", emb="time_emb_proj", norm2="norm2", conv2="conv2", skip="conv_shortcut",
        norm="group_norm", q="to_q", k="to_k", v="to_v", proj="to_out.0",
        time1="time_embedding.linear_1", time2="time_embedding.linear_2", stem="conv_in", norm_out="conv_norm_out", out="conv_out",
        middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    ),
    "guided diffusion": dict(
        norm1="in_layers.0", conv1="in_layers.2", emb="emb_layers.1", norm2="out_layers.0", conv2="out_layers.3", skip="skip_connection",
        norm="norm", qkv="qkv", proj="proj_out",
        time1="time_embed.0", time2="time_embed.2", stem="input_blocks.0.0", norm_out="out.0", out="out.2",
        middle=("middle_block.0", "middle_block.1", "middle_block.2"),
    ),
}  # fmt: skip


def put(parent, name, module):
    """Registers a module under a dotted name."""
    *path, last = name.split(".")
    for step in path:
        if step not in parent._modules:
            parent.add_module(step, nn.Module())
        parent = parent._modules[step]
    parent.add_module(last, module)
    return module


class Reference(nn.Module):
    """A network whose state_dict has the keys of a layout, and whose output follows the papers.

    heads: how many, or a function of the channels. order: of the rows of qkv. eps: None for that of the layout.
    """

    def __init__(self, *, layout, width, multipliers, blocks, attention=(), scale_shift=False, resamples=False, outputs=3, classes=None,
                 heads=1, order="by head", device=None):  # fmt: skip
        super().__init__()
        self.layout, self.width, self.multipliers, self.blocks, self.attention = layout, width, multipliers, blocks, attention
        self.scale_shift, self.resamples, self.order, self.device = scale_shift, resamples, order, device
        self.heads = heads if callable(heads) else lambda channels: heads
        self.names, self.ddpm = NAMES[layout], layout != "guided diffusion"
        self.eps = 1e-6 if self.ddpm else 1e-5
        self.modules_by_name, emb, widths = {}, 4 * width, [int(m * width) for m in multipliers]
        self.linear(self.names["time1"], width, emb)
        self.linear(self.names["time2"], emb, emb)
        if classes:
            self.put("class_embedding" if layout == "diffusers" else "label_emb", nn.Embedding(classes, emb, device=device))
        self.labelled, self.emb = bool(classes), emb
        self.conv(self.names["stem"], 3, widths[0])
        c, skips = widths[0], [widths[0]]
        for level, w in enumerate(widths):
            for i in range(blocks):
                self.res(self.place("down", level, i), c, w)
                self.att(self.place("down", level, i, "attention"), w, level in attention)
                c = w
                skips.append(c)
            if level < len(widths) - 1:
                self.resize(self.place("down", level, blocks, "resize"), c)
                skips.append(c)
        first, middle, last = self.names["middle"]
        self.res(first, c, c)
        self.att(middle, c, True)
        self.res(last, c, c)
        for level, w in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                self.res(self.place("up", level, i), c + skips.pop(), w)
                self.att(self.place("up", level, i, "attention"), w, level in attention)
                c = w
            if level:
                self.resize(self.place("up", level, blocks, "resize"), c)
        self.group_norm(self.names["norm_out"], c)
        self.conv(self.names["out"], c, outputs)

    def place(self, side, level, i, part="block"):
        """The name of a part of a block."""
        if self.layout == "DDPM":
            kind = {"block": f"block.{i}", "attention": f"attn.{i}", "resize": f"{side}sample.conv"}[part]
            return f"{side}.{level}.{kind}"
        if self.layout == "diffusers":
            kind = {"block": f"resnets.{i}", "attention": f"attentions.{i}", "resize": f"{side}samplers.0.conv"}[part]
            return f"{side}_blocks.{level if side == 'down' else len(self.multipliers) - 1 - level}.{kind}"
        if side == "down":
            number = 1 + level * (self.blocks + 1) + i
            return f"input_blocks.{number}.{int(part == 'attention')}" + (".op" if part == "resize" and not self.resamples else "")
        number = (len(self.multipliers) - 1 - level) * (self.blocks + 1) + i
        inner = {"block": 0, "attention": 1, "resize": 1 + (level in self.attention)}[part]
        return f"output_blocks.{number}.{inner}" + (".conv" if part == "resize" and not self.resamples else "")

    def put(self, name, module):
        self.modules_by_name[name] = put(self, name, module)

    def linear(self, name, a, b):
        self.put(name, nn.Linear(a, b, device=self.device))

    def conv(self, name, a, b, side=3):
        self.put(name, nn.Conv2d(a, b, side, padding=side // 2, device=self.device))

    def group_norm(self, name, c):
        self.put(name, nn.GroupNorm(32, c, eps=self.eps, device=self.device))

    def res(self, name, a, b):
        n = self.names
        self.group_norm(f"{name}.{n['norm1']}", a)
        self.conv(f"{name}.{n['conv1']}", a, b)
        self.linear(f"{name}.{n['emb']}", self.emb, 2 * b if self.scale_shift else b)
        self.group_norm(f"{name}.{n['norm2']}", b)
        self.conv(f"{name}.{n['conv2']}", b, b)
        if a != b:
            self.conv(f"{name}.{n['skip']}", a, b, 1)

    def att(self, name, c, there):
        if not there:
            return
        self.group_norm(f"{name}.{self.names['norm']}", c)
        for part, size in (("qkv", 3), ("proj", 1)) if "qkv" in self.names else (("q", 1), ("k", 1), ("v", 1), ("proj", 1)):
            full = f"{name}.{self.names[part]}"
            if self.layout == "DDPM":
                self.conv(full, c, c, 1)
            elif self.layout == "diffusers":
                self.linear(full, c, c)
            else:
                self.put(full, nn.Conv1d(c, size * c, 1, device=self.device))

    def resize(self, name, c):
        if self.resamples:
            self.res(name, c, c)
        else:
            self.conv(name, c, c)

    def __call__(self, x, t, label=None):
        """The prediction for pictures x: (b, 3, h, w) at time steps t: (b,), which need not be whole."""
        get, n, half = self.modules_by_name, self.names, self.width // 2
        if self.ddpm:
            frequencies = torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
            wave = torch.cat([torch.sin(t[:, None] * frequencies), torch.cos(t[:, None] * frequencies)], 1)
        else:
            frequencies = torch.exp(-math.log(10000) * torch.arange(half) / half)
            wave = torch.cat([torch.cos(t[:, None] * frequencies), torch.sin(t[:, None] * frequencies)], 1)
        emb = get[n["time2"]](F.silu(get[n["time1"]](wave)))
        if self.labelled:
            emb = emb + get["class_embedding" if self.layout == "diffusers" else "label_emb"](label)
        h = get[n["stem"]](x)
        kept = [h]
        for level in range(len(self.multipliers)):
            for i in range(self.blocks):
                h = self.run_block("down", level, i, h, emb)
                kept.append(h)
            if level < len(self.multipliers) - 1:
                h = self.smaller(self.place("down", level, self.blocks, "resize"), h, emb)
                kept.append(h)
        first, middle, last = n["middle"]
        h = self.run_res(last, self.run_attention(middle, self.run_res(first, h, emb)), emb)
        self.h = h
        for level in reversed(range(len(self.multipliers))):
            for i in range(self.blocks + 1):
                h = self.run_block("up", level, i, torch.cat([h, kept.pop()], 1), emb)
            if level:
                h = self.larger(self.place("up", level, self.blocks, "resize"), h, emb)
        return get[n["out"]](F.silu(get[n["norm_out"]](h)))

    def run_block(self, side, level, i, h, emb):
        h = self.run_res(self.place(side, level, i), h, emb)
        return self.run_attention(self.place(side, level, i, "attention"), h) if level in self.attention else h

    def run_res(self, name, x, emb, resize=lambda x: x):
        get, n = self.modules_by_name, self.names
        h = get[f"{name}.{n['conv1']}"](resize(F.silu(get[f"{name}.{n['norm1']}"](x))))
        x = resize(x)
        added = get[f"{name}.{n['emb']}"](F.silu(emb))[:, :, None, None]
        norm = get[f"{name}.{n['norm2']}"]
        if self.scale_shift:
            scale, shift = added.chunk(2, 1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + added)
        h = get[f"{name}.{n['conv2']}"](F.silu(h))
        skip = get.get(f"{name}.{n['skip']}")
        return h + (skip(x) if skip else x)

    def run_attention(self, name, x):
        get, n, (b, c) = self.modules_by_name, self.names, x.shape[:2]
        heads = self.heads(c)
        d, rows = c // heads, get[f"{name}.{n['norm']}"](x).reshape(b, c, -1)
        if "qkv" in n:
            weight, bias = get[f"{name}.{n['qkv']}"].weight[..., 0], get[f"{name}.{n['qkv']}"].bias
        else:
            parts = [get[f"{name}.{n[one]}"] for one in "qkv"]
            weight, bias = torch.cat([p.weight.reshape(c, c) for p in parts]), torch.cat([p.bias for p in parts])
        all_rows, results = weight @ rows + bias[:, None], []
        for i in range(heads):
            if "qkv" in n and self.order == "by head":
                q, k, v = all_rows[:, 3 * d * i : 3 * d * (i + 1)].split(d, 1)
            else:
                q, k, v = (all_rows[:, c * s + d * i : c * s + d * (i + 1)] for s in range(3))
            results.append(v @ torch.softmax(q.transpose(1, 2) @ k / math.sqrt(d), 2).transpose(1, 2))
        proj = get[f"{name}.{n['proj']}"]
        moved = proj.weight.reshape(c, c) @ torch.cat(results, 1) + proj.bias[:, None]
        return x + moved.reshape(x.shape)

    def smaller(self, name, h, emb):
        if self.resamples:
            return self.run_res(name, h, emb, lambda x: F.avg_pool2d(x, 2))
        conv = self.modules_by_name[name]
        return F.conv2d(F.pad(h, (0, 1, 0, 1)) if self.ddpm else F.pad(h, (1, 1, 1, 1)), conv.weight, conv.bias, stride=2)

    def larger(self, name, h, emb):
        def twice(x):
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

        return self.run_res(name, h, emb, twice) if self.resamples else self.modules_by_name[name](twice(h))


def shapes_of(**settings):
    """The shapes of a network's weights, by key; nothing is allocated."""
    return {key: tuple(value.shape) for key, value in Reference(**settings, device="meta").state_dict().items()}


def filled(network, seed=0):
    """The network with random weights of a size that keeps what passes through it at about one."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        size = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
        weight.data = (1 + 0.3 * noise) if weight.ndim == 1 and name.endswith("weight") else size * noise
    return network.requires_grad_(False)


def betas(schedule, steps):
    """The variances that are added at each step (Ho et al. 2020; Nichol & Dhariwal 2021, eq. 17)."""
    if schedule == "linear":
        return torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    left = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    return torch.tensor([min(1 - after / before, 0.999) for before, after in zip(left, left[1:])], dtype=torch.float64)

"""The layers of a model that a LoRA changes: which there are, their names in files, and the host's adapters on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal, get_args

import comfy.lora
import comfy.lora_convert
import comfy.model_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter
from comfy.weight_adapter.bypass import BypassInjectionManager
from comfy.weight_adapter.lora import LoraDiff
from torch import Tensor, nn

from .compiled import uncompiled
from .families import family_name

Layers = Literal["attention", "cross-attention", "all linear"]
LAYERS: tuple[Layers, ...] = get_args(Layers)
NETWORK = "diffusion_model"
ATTENTION = ("attn", "attention")
# The layers of Flux's single blocks are attention and feed-forward in one.
SINGLE_STREAM = ("single_blocks.", ("linear1", "linear2"))
CROSS = ("attn2", "cross_attn", "cross_attention")
# Files of LoRAs for these are named as Kohya's trainer names them; those of diffusers and of the Web UI's read them, too. Files for others
# have the host's own names, with the tensors' names of PEFT.
KOHYA_BY_PLACE = (comfy.model_base.SDXL, comfy.model_base.Flux)  # by the network's own modules
KOHYA_PREFIX = "lora_unet_"
BY_DIFFUSERS = ("down_blocks_", "mid_block_", "up_blocks_")  # by diffusers' modules: SD 1.x and 2.x


def chosen_layers(model: ModelPatcher, layers: Layers) -> dict[str, nn.Linear]:
    """The linear layers of a model that are trained, by their weights' names in it. Raises ValueError if it has none of the kind."""
    names = file_names(model)
    network = uncompiled(model.get_model_object(NETWORK))
    linear = {f"{NETWORK}.{name}.weight": part for name, part in network.named_modules() if isinstance(part, nn.Linear)}
    found = {key: part for key, part in linear.items() if key in names and is_of(key, layers)}
    if not found:
        raise ValueError(
            f"layers: this model ({family_name(model)}) has no layers that are {layers} and that ComfyUI has names for in files of LoRAs; "
            f"choose another of {', '.join(LAYERS)}."
        )
    return found


def is_of(key: str, layers: Layers) -> bool:
    """Whether a weight by its name is of layers of a kind."""
    if layers == "all linear":
        return True
    if layers == "cross-attention":
        return any(word in key for word in CROSS)
    block, parts = SINGLE_STREAM
    return any(word in key for word in ATTENTION) or (block in key and any(f".{part}." in key for part in parts))


def file_names(model: ModelPatcher) -> dict[str, str]:
    """How weights of a model are named in files of LoRAs, by their names in it: one of the names that the host itself reads."""
    by_key: dict[str, list[str]] = {}
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        if isinstance(key, str):  # others are slices of a weight
            by_key.setdefault(key, []).append(name)
    return {key: preferred(model, key, names) for key, names in by_key.items()}


def preferred(model: ModelPatcher, key: str, names: list[str]) -> str:
    """Of the names of a weight, the one that most other tools read."""
    own = key.removesuffix(".weight")
    by_place = KOHYA_PREFIX + own.removeprefix(f"{NETWORK}.").replace(".", "_")
    if isinstance(model.model, KOHYA_BY_PLACE):
        return by_place if by_place in names else own
    by_diffusers = [name for name in names if name.startswith(tuple(KOHYA_PREFIX + place for place in BY_DIFFUSERS))]
    return next(iter(by_diffusers), own if own in names else names[0])


def base_of(model: ModelPatcher, layers: dict[str, nn.Linear]) -> str:
    """Twelve characters, a hash of some of a model's weights in float16, without what LoRAs have put on them: of which model it is."""
    digest = hashlib.sha256()
    for key in sorted(layers)[:4]:
        before = model.backup.get(key)
        weight = layers[key].weight if before is None else before.weight
        digest.update(weight.detach().to("cpu", torch.float16).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def in_file(name: str, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """The tensors of a file for one layer: up (out, rank), down (rank, in), which act as their product."""
    if not name.startswith(KOHYA_PREFIX):
        return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    return {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(float(len(down)))}


class SwitchedAdapter(LoraDiff):
    """The host's LoRA adapter in training, at a strength that changes between calls; at 0 it adds nothing.

    Its weights are float32 and act in the dtype of what goes through the layer.
    """

    multiplier: float = 0.0

    def h(self, x: Tensor, base_out: Tensor) -> Tensor:
        if self.multiplier == 0:
            return base_out.new_zeros(())
        with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
            return super().h(x, base_out).to(base_out.dtype)


class Adapters:
    """Adapters of one rank on layers of a model, by their weights' names. The layers themselves are not touched.

    Those of the same seed have the same bits. start: (up, down) by weight, to go on with.
    """

    def __init__(self, layers: dict[str, nn.Linear], rank: int, seed: int, start: dict[str, tuple[Tensor, Tensor]] | None = None) -> None:
        self.adapters: dict[str, SwitchedAdapter] = {}
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for key, layer in layers.items():
                made = LoRAAdapter.create_train(torch.empty(layer.weight.shape, device="cpu"), rank=rank, alpha=float(rank))
                up, down = start[key] if start else (made.lora_up.weight, made.lora_down.weight)
                self.adapters[key] = SwitchedAdapter((up.detach().float(), down.detach().float(), float(rank), None, None, None))
        for adapter in self.adapters.values():
            adapter.train().requires_grad_(True)
            adapter.alpha.requires_grad_(False)

    def put_on(self, network: nn.Module) -> None:
        """Put them on the layers of a model's twin, through the host's own hooks. network: what the weights' names begin in."""
        manager = BypassInjectionManager()
        for key, adapter in self.adapters.items():
            manager.add_adapter(key, adapter, strength=0.0)
        for injection in manager.create_injections(network):
            injection.inject(None)

    def set(self, strength: float) -> None:
        """The strength at which they act from now on; 0 is the model without them."""
        for adapter in self.adapters.values():
            adapter.multiplier = strength

    def weights(self) -> list[nn.Parameter]:
        """What is trained: (out, rank) and (rank, in) of each."""
        return [weight for adapter in self.adapters.values() for weight in (adapter.lora_up.weight, adapter.lora_down.weight)]

    def tensors(self, names: dict[str, str]) -> dict[str, Tensor]:
        """Copies of them as in a file. names: of weights in files, by their names in the model."""
        return dict(
            item
            for key, adapter in self.adapters.items()
            for item in in_file(names[key], *(w.weight.detach().cpu().clone() for w in (adapter.lora_up, adapter.lora_down))).items()
        )


def read_back(model: ModelPatcher, lora: dict[str, Tensor]) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """The weights (up, down) of a LoRA for this model, by weights' names, whose product acts as it is.

    Raises ValueError for one that does not fit the model, or is of another kind than plain products.
    """
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    found = comfy.lora.load_lora(comfy.lora_convert.convert_lora(lora), known, log_missing=False)
    if not found:
        raise ValueError(f"resume: none of the {len(lora)} tensors of this LoRA fits a weight of this model ({family_name(model)}).")
    for key, adapter in found.items():
        up, down, alpha, *more = adapter.weights if isinstance(adapter, LoRAAdapter) else (None, None, None, True)
        if up is None or down is None or any(part is not None for part in more):
            raise ValueError("resume: this LoRA is no plain product of two matrices (LoHa, LoKr, DoRA or another kind); connect another.")
        yield str(key), (up.flatten(1) * ((alpha / len(down)) if alpha is not None else 1.0), down.flatten(1))


def start_of(model: ModelPatcher, lora: dict[str, Tensor], layers: dict[str, nn.Linear], rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """What training goes on with. Raises ValueError for a LoRA of another rank, or on other layers."""
    start = dict(read_back(model, lora))
    if start.keys() != layers.keys():
        raise ValueError(
            f"resume: this LoRA is on {len(start)} layers, and layers chooses {len(layers)}, "
            f"{len(start.keys() & layers.keys())} of them the same; choose the layers that it was trained on."
        )
    ranks = sorted({len(down) for _, down in start.values()})
    if ranks != [rank]:
        raise ValueError(f"resume: this LoRA has rank {', '.join(map(str, ranks))}, and rank is {rank}; they have to be the same.")
    return start

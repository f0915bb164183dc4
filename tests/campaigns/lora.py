"""LoRAs of random weights."""

from pack.tests.wiring import random


def random_lora(model):
    """A LoRA of rank 2 on every attention layer of the UNet, in the usual file's names."""
    lora = {}
    for i, (name, weight) in enumerate(model.model.diffusion_model.state_dict().items()):
        if "attn" in name and weight.ndim == 2:
            key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            lora |= {
                f"{key}.lora_up.weight": 0.3 * random(i, len(weight), 2),
                f"{key}.lora_down.weight": random(-i - 1, 2, weight.shape[1]) / weight.shape[1] ** 0.5,
            }
    return lora

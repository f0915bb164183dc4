"""One pass of the encoder that serves two of the decoder."""

import pytest
import torch

from pack.core.hspace.injection import Window
from pack.tests.rounding import close


@pytest.mark.parametrize("branch, chunks", [("conditional", [1]), ("unconditional", [0]), ("both", [0, 1])])
@pytest.mark.parametrize("family", ["SD15", "SDXL"])
def test_one_encoder_pass_gives_what_two_full_passes_give_with_control_residuals(shaped, direction_for, family, branch, chunks):
    """At the UNet itself: out + gain (edited - out) on the chunks of the branch, and not a bit elsewhere."""
    import comfy.model_sampling
    from comfy.patcher_extension import WrappersMP

    from pack.host.edits import HEdit, RunPlan, run_unet, shift_h
    from pack.host.options import EDITING as KEY
    from pack.host.options import PLAN

    world = shaped(family)
    unet, generator = world.model.model.diffusion_model, torch.Generator().manual_seed(4)
    edit = HEdit(direction_for(world), 2.0, Window(), branch, True, False, None)
    plan = RunPlan((edit,), [10.0, 5.0, 1.0, 0.0], comfy.model_sampling.ModelSamplingDiscrete())

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    x, context, timesteps = random(4, 4, 16, 16), random(4, 77, world.width), torch.full((4,), 500.0)
    y = random(4, 2816) if world.pooled else None
    residuals = {"middle": [random(4, 64, 4, 4)], "output": [random(4, 64, 4, 4), None], "input": []}

    def call(**options):
        control = {key: list(value) for key, value in residuals.items()}
        told = {"sigmas": torch.tensor([5.0]), "cond_or_uncond": [1, 0], **options}
        return unet(x, timesteps=timesteps, context=context, y=y, control=control, transformer_options=told)

    got = call(
        **{PLAN: plan, "patches": {"middle_block_after_patch": [shift_h]}, "wrappers": {WrappersMP.DIFFUSION_MODEL: {KEY: [run_unet]}}}
    )
    shift = plan.strengths[0] * edit.direction.resampled([5.0]).resized((4, 4)).shifts
    plain, edited = call(), call(patches={"middle_block_after_patch": [lambda args: {"h": args["h"] + shift}]})
    expected = plain + plan.gain(5.0, None) * (edited - plain)
    for i in range(2):
        rows = slice(2 * i, 2 * i + 2)
        if i in chunks:
            close(got[rows], expected[rows])
            assert (got[rows] - plain[rows]).abs().max() > 1e-2
        else:
            assert torch.equal(got[rows], plain[rows])


def asymmetric_call(world, direction, **further_wrappers):
    """A call of a small SD 1.5's UNet under an asymmetric edit, and under further wrappers inside of the pack's own."""
    import comfy.model_sampling
    from comfy.patcher_extension import WrappersMP

    from pack.host.edits import HEdit, RunPlan, run_unet, shift_h
    from pack.host.options import EDITING, PLAN

    edit = HEdit(direction, 2.0, Window(), "both", True, False, None)
    options = {
        "sigmas": torch.tensor([5.0]),
        "cond_or_uncond": [1, 0],
        PLAN: RunPlan((edit,), [10.0, 5.0, 1.0, 0.0], comfy.model_sampling.ModelSamplingDiscrete()),
        "patches": {"middle_block_after_patch": [shift_h]},
        "wrappers": {WrappersMP.DIFFUSION_MODEL: {EDITING: [run_unet], **further_wrappers}},
    }
    x, context = torch.zeros(2, 4, 16, 16), torch.zeros(2, 77, world.width)
    return world.model.model.diffusion_model(x, timesteps=torch.full((2,), 500.0), context=context, transformer_options=options)


@pytest.mark.parametrize("name, said", [("easycache", "EasyCache skips steps"), ("another", "another node's patch .the wrapper another.")])
def test_a_wrapper_that_skips_the_unet_is_named(shaped, direction_for, name, said):
    world = shaped("SD15")
    with pytest.raises(ValueError, match=f"^model: {said}.*, inside an asymmetric edit. Connect it ahead of Apply Direction"):
        asymmetric_call(world, direction_for(world), **{name: [lambda executor, x, *args, **kwargs: x]})


@pytest.mark.parametrize("walk", ["no blocks", "some blocks", "no forward"])
def test_a_host_that_runs_the_blocks_in_another_way_is_named_with_its_version(shaped, direction_for, monkeypatch, walk):
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfyui_version import __version__

    def forward(unet, x, *args, **kwargs):
        for block in unet.input_blocks[:2] if walk == "some blocks" else ():
            block[-1](x)
        return x

    world = shaped("SD15")
    direction = direction_for(world)
    if walk == "no forward":  # a host whose UNet has other parts
        monkeypatch.setattr("pack.host.unet.BLOCKS", ("blocks_by_another_name",))
    else:
        monkeypatch.setattr(UNetModel, "_forward", forward)
    with pytest.raises(ValueError, match=f"^model: ComfyUI {__version__}, .* in another way .* turn asymmetric off.$"):
        asymmetric_call(world, direction)

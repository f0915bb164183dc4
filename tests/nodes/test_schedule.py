"""Editing Schedule in the real host."""

import pytest
import torch

from pack.tests.training import edited


@pytest.mark.parametrize("distance", ["SSIM", "RMS", "CLIP vision"])
def test_a_schedule_is_proposed_that_apply_direction_and_the_sampler_take(demo, run, sampler_of, trained, scorer, distance):
    start, end, boost, picture = run(
        "EditingSchedule",
        model=demo.model,
        positive=demo.encode("a portrait"),
        negative=demo.encode(""),
        vae=demo.vae,
        latent=demo.empty(),
        distance=distance,
        images=2,
        steps=6,
        cfg=2.0,
        seed=0,
        edit_threshold=0.0,
        boost_threshold=0.0,
        source_text="a portrait",
        target_text="a portrait, hat",
        clip_vision=scorer["clip_vision"],
    )
    assert start == 0 <= end <= boost <= 1
    assert boost > 0
    assert picture.shape[0] == 1
    sampler = run("DDIMSampler", eta=0.0, boost_percent=boost)[0]
    assert torch.isfinite(edited(demo, run, sampler_of, trained[0], sampler=sampler, end_percent=max(end, 0.3))).all()


def test_a_higher_threshold_ends_the_edit_earlier_and_the_texts_likeness_lowers_it(demo, run):
    def ends(**changes):
        settings = dict(
            model=demo.model,
            positive=demo.encode("a portrait"),
            negative=demo.encode(""),
            vae=demo.vae,
            latent=demo.empty(),
            distance="RMS",
            images=1,
            steps=8,
            cfg=2.0,
            seed=0,
            edit_threshold=0.1,
            boost_threshold=0.1,
            source_text="a portrait",
            target_text="a portrait, hat",
        )
        return run("EditingSchedule", **{**settings, **changes})[1]

    middle = ends()
    assert ends(edit_threshold=0.02) > middle > ends(edit_threshold=0.3)
    assert ends(clip=demo.clip) > middle


def test_the_distance_clip_vision_needs_one(demo, run):
    with pytest.raises(ValueError, match="clip_vision: the distance CLIP vision needs one"):
        run(
            "EditingSchedule",
            model=demo.model,
            positive=demo.encode("a portrait"),
            negative=demo.encode(""),
            vae=demo.vae,
            latent=demo.empty(),
            distance="CLIP vision",
            images=2,
            steps=4,
            cfg=2.0,
            seed=0,
            edit_threshold=0.0,
            boost_threshold=0.0,
            source_text="",
            target_text="",
        )

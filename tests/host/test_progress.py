"""What long nodes show while they run: progress to the end, previews, and Cancel at each tick."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.fixture
def sent(monkeypatch):
    """What the host's progress bar was told: (value, total, preview)."""
    import comfy.utils

    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: seen.append((value, total, preview)))
    return seen


def bar_for(latent_format):
    from pack.host.progress import Bar

    return Bar(1, SimpleNamespace(load_device=torch.device("cpu"), get_model_object=lambda name: latent_format))


def test_latents_are_shown_in_rows(demo, sent):
    from pack.host.progress import Bar

    latents = torch.full((6, 4, 10, 8), -10.0)
    latents[4] = 10.0
    Bar(2, demo.model).tick(latents, columns=3)
    ((value, total, (kind, picture, _)),) = sent
    assert (value, total, kind, picture.size) == (1, 2, "JPEG", (24, 20))
    white = [(x, y) for x in range(3) for y in range(2) if picture.getpixel((8 * x + 4, 10 * y + 5)) == (255, 255, 255)]
    assert white == [(1, 1)]
    assert picture.getpixel((0, 0)) == (0, 0, 0)


def test_a_sheet_of_large_latents_is_thinned_out(sent):
    import comfy.latent_formats

    bar_for(comfy.latent_formats.SDXL()).tick(torch.zeros(30, 4, 128, 128), columns=6)
    assert max(sent[0][2][1].size) <= 512
    assert sent[0][2][1].size[0] > 300


def test_of_a_video_the_first_frame_is_shown(sent):
    import comfy.latent_formats

    bar_for(comfy.latent_formats.Wan21()).tick(torch.zeros(2, 16, 3, 12, 20))
    assert sent[0][2][1].size == (40, 12)


def test_latents_whose_colours_the_host_does_not_know_bring_progress_alone(sent):
    import comfy.latent_formats

    bar_for(comfy.latent_formats.LatentFormat()).tick(torch.zeros(1, 4, 8, 8))
    assert sent == [(1, 1, None)]


def test_a_tick_after_cancel_ends_the_node(demo):
    import comfy.model_management

    from pack.host.progress import Bar

    bar = Bar(2, demo.model)
    bar.tick()
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        bar.tick()


def test_explore_fills_its_grid_cell_by_cell(demo, run, sampler_of, sent):
    run("ExploreSingularVectors", **demo.wired(sampler_of("euler")), percent=0.5, triplets="1-3", gains="0, 4", batch_size=2)
    previews = [preview[1] for *_, preview in sent]
    value, total, _ = sent[-1]
    assert value == total == len(sent)
    assert all(previews)
    grids = [picture for picture in previews if picture.size == (24, 16)]
    assert len(grids) % 3 == 0
    assert previews[0].size == (8, 8)
    first, last = ([grid.crop(cell).tobytes() for grid in grids] for cell in ((0, 0, 16, 8), (8, 8, 24, 16)))
    steps = len(grids) // 3
    assert len(set(first[:steps])) == steps
    assert len(set(first[steps:])) == 1
    assert len(set(last[: 2 * steps])) == 1
    assert len(set(last[2 * steps :])) == steps


def test_training_an_attribute_shows_its_pairs_and_then_its_result(demo, run, sampler_of, sent):
    given = demo.wired(sampler_of("euler"))
    settings = {port.id: port.default for port in pack_schema("TrainAttribute") if getattr(port, "default", None) is not None}
    *_, picture = run(
        "TrainAttribute",
        **settings
        | dict(
            model=demo.model,
            source=demo.encode("a portrait"),
            target=demo.encode("a portrait, beard"),
            negative=demo.encode(""),
            vae=demo.vae,
            sampler=given["sampler"],
            sigmas=given["sigmas"],
            latent=demo.empty(),
            seeds=2,
        ),
    )
    *ticks, (value, total, last) = sent
    assert ticks[-1][:2] == (value, total) == (len(ticks), len(ticks))
    assert {preview[1].size for *_, preview in ticks} == {(8, 8), (16, 8), (24, 8)}
    assert shows(last, picture)


def test_a_schedule_s_last_preview_is_its_plot(demo, run, sent):
    """The frontend leaves a preview over the node's own picture."""
    *_, picture = run(
        "EditingSchedule",
        model=demo.model,
        positive=demo.encode("a portrait"),
        negative=demo.encode(""),
        vae=demo.vae,
        latent=demo.empty(),
        distance="RMS",
        images=1,
        steps=4,
        cfg=2.0,
        seed=0,
        edit_threshold=0.1,
        boost_threshold=0.1,
        source_text="",
        target_text="",
    )
    assert not shows(sent[0][2], picture)
    assert shows(sent[-1][2], picture)


def shows(preview, picture):
    kind, pixels, largest = preview
    return kind == "PNG" and largest is None and torch.equal(torch.from_numpy(np.array(pixels)), (picture[0] * 255).round().to(torch.uint8))


def pack_schema(name):
    import pack.nodes.avi

    return getattr(pack.nodes.avi, name).define_schema().inputs

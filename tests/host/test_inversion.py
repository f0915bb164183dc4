"""Batches that the host's nodes pick apart, repeat and reorder between Invert and the sampler: each picture keeps its own way back."""

import importlib

import pytest
import torch

from pack.tests.wiring import node, outputs, random

COUNT = 3


@pytest.fixture(scope="module")
def back(demo, pack_nodes):
    """Three pictures, inverted: their LATENT, the NOISE, the exact SAMPLER, the sigmas, and the noisy LATENT."""
    importlib.import_module("comfy_extras.nodes_post_processing")  # the host's nodes_latent and this one import each other
    with torch.inference_mode():
        coarse = torch.nn.functional.interpolate(random(8, COUNT, 4, 2, 2), 8, mode="bicubic") * 0.4
        return invert(demo, pack_nodes, {"samples": coarse})


def invert(demo, pack_nodes, latent):
    sigmas = node("custom_sampler.BasicScheduler", model=demo.model, scheduler="normal", steps=4, denoise=1.0)
    inputs = dict(model=demo.model, positive=demo.encode("a portrait"), latent=latent, sigmas=sigmas, refinements=2, tolerance=1e-4)
    noise, noisy, exact, _ = pack_nodes["SemanticLatents_Invert"].execute(**inputs).args
    return latent, noise, exact, sigmas, noisy


def drawn(demo, noise, sampler, sigmas, latent):
    guider = node("custom_sampler.BasicGuider", model=demo.model, conditioning=demo.encode("a portrait"))
    given = dict(noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent)
    return node("custom_sampler.SamplerCustomAdvanced", **given)["samples"]


def pick(latent, first, length=1):
    return node("LatentFromBatch", samples=latent, batch_index=first, length=length)


def repeat(latent, amount=2):
    return node("RepeatLatentBatch", samples=latent, amount=amount)


def rebatched(latent, size, number):
    return outputs("rebatch.LatentRebatch", latents=[latent], batch_size=[size])[0][number]


def reordered(latent):
    return node("latent.LatentBatch", samples1=pick(latent, 2), samples2=pick(latent, 0, 2))


# What the host's nodes make of three latents, and which of them the results are.
PARTS = {
    "the first": (lambda x: pick(x, 0), [0]),
    "the last": (lambda x: pick(x, 2), [2]),
    "two": (lambda x: pick(x, 1, 2), [1, 2]),
    "one of two": (lambda x: pick(pick(x, 1, 2), 1), [2]),
    "all": (lambda x: x, [0, 1, 2]),
    "all, twice": (repeat, [0, 1, 2, 0, 1, 2]),
    "picked, all": (lambda x: pick(x, 0, 3), [0, 1, 2]),
    "in another order": (reordered, [2, 0, 1]),
    "a batch of a list": (lambda x: rebatched(x, 2, 1), [2]),
}
FILLED = {  # of these, an empty latent does not say which picture is meant
    "the first, three times": (lambda x: repeat(pick(x, 0), 3), [0, 0, 0]),
    "the last, three times": (lambda x: repeat(pick(x, 2), 3), [2, 2, 2]),
    "picked, all, twice": (lambda x: repeat(pick(x, 0, 3)), [0, 1, 2, 0, 1, 2]),
    "two, twice": (lambda x: repeat(pick(x, 1, 2)), [1, 2, 1, 2]),
    "of one seed": (lambda x: node("latent.LatentBatchSeedBehavior", samples=x, seed_behavior="fixed"), [0, 1, 2]),
    "picked, without its number": (lambda x: {"samples": pick(x, 2)["samples"]}, [2]),
    "encoded again": (lambda x: {"samples": pick(x, 1)["samples"] * 1.001}, [1]),
}


@pytest.mark.parametrize("part, rows", [*PARTS.values(), *FILLED.values()], ids=[*PARTS, *FILLED])
def test_each_latent_gets_the_start_of_its_own_picture(back, part, rows):
    latent, noise, *_ = back
    torch.testing.assert_close(noise.generate_noise(part(latent)), noise.generate_noise(latent)[rows], rtol=0, atol=1e-3)


@pytest.mark.parametrize("part, rows", PARTS.values(), ids=PARTS)
def test_so_does_an_empty_latent(demo, back, part, rows):
    noise, empty = back[1], demo.empty(COUNT)
    assert torch.equal(noise.generate_noise(part(empty)), noise.generate_noise(empty)[rows])


@pytest.mark.parametrize("part, rows", [*PARTS.values(), *FILLED.values()], ids=[*PARTS, *FILLED])
def test_the_exact_sampler_returns_to_each_picture(demo, back, part, rows):
    latent, noise, exact, sigmas, _ = back
    torch.testing.assert_close(drawn(demo, noise, exact, sigmas, part(latent)), latent["samples"][rows], rtol=0, atol=1e-4)


@pytest.mark.parametrize("part, rows", PARTS.values(), ids=PARTS)
def test_the_noisy_latent_can_be_picked_apart_too(demo, back, part, rows):
    latent, _, exact, sigmas, noisy = back
    again = drawn(demo, node("custom_sampler.DisableNoise"), exact, sigmas, part(noisy))
    torch.testing.assert_close(again, latent["samples"][rows], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["SD15", "Flux", "WAN21_T2V"])
def test_so_it_is_in_every_family(shaped, pack_nodes, family):
    world = shaped(family)
    empty = world.empty(COUNT)
    latent, noise, exact, sigmas, _ = invert(world, pack_nodes, {"samples": 0.4 * random(8, *empty["samples"].shape)})
    for part, rows in (PARTS["two"], FILLED["the last, three times"]):
        expected = noise.generate_noise(latent)[rows]
        torch.testing.assert_close(noise.generate_noise(part(latent)), expected, rtol=0, atol=1e-3)
        back = drawn(world, noise, exact, sigmas, part(latent))
        torch.testing.assert_close(back, latent["samples"][rows], rtol=0, atol=1e-5)
    assert torch.equal(noise.generate_noise(pick(empty, 2)), noise.generate_noise(empty)[[2]])


@pytest.mark.parametrize("rows", [[1], [2, 0]])
def test_a_part_that_is_inverted_keeps_its_numbers(demo, pack_nodes, back, rows):
    latent, empty = back[0], demo.empty(COUNT)
    parts = [pick(latent, row) for row in rows]
    inverted = {"samples": torch.cat([part["samples"] for part in parts]), "batch_index": [part["batch_index"][0] for part in parts]}
    noise = invert(demo, pack_nodes, inverted)[1]
    own = noise.generate_noise(inverted)
    for i, row in enumerate(rows):
        torch.testing.assert_close(noise.generate_noise(pick(latent, row)), own[[i]], rtol=0, atol=1e-3)
        unfilled = noise.generate_noise({**inverted, "samples": empty["samples"][: len(rows)]})
        assert torch.equal(noise.generate_noise(pick(empty, row)), unfilled[[i]])


def test_one_picture_serves_any_number_of_latents(demo, pack_nodes, back):
    noise = invert(demo, pack_nodes, pick(back[0], 2))[1]
    empty = demo.empty(4)
    assert torch.equal(noise.generate_noise(empty), noise.generate_noise(demo.empty()).expand(4, -1, -1, -1))
    assert torch.equal(noise.generate_noise(pick(empty, 3)), noise.generate_noise(demo.empty()))


def test_a_number_that_was_not_inverted_is_refused(demo, back):
    noise = back[1]
    with pytest.raises(ValueError, match="latent_image: batch_index 3 is none of the 3 pictures"):
        noise.generate_noise(pick(demo.empty(5), 3))
    with pytest.raises(ValueError, match="latent_image: batch_index 3"):
        noise.generate_noise(repeat(pick(demo.empty(3), 2)))


def test_a_variant_of_a_picture_is_drawn_from_that_picture_s_start(demo, back, run, sampler_of):
    """Explore Singular Vectors on one picture of the batch."""
    latent, noise, _, sigmas, _ = back
    euler, guider = sampler_of("euler"), node("custom_sampler.BasicGuider", model=demo.model, conditioning=demo.encode("a portrait"))
    wired = dict(noise=noise, guider=guider, sampler=euler, sigmas=sigmas, latent_image=pick(latent, 2))
    found = run("ExploreSingularVectors", **wired, percent=0.3, triplets="1", gains="1, 0.5", batch_size=0)[0]
    torch.testing.assert_close(found["samples"][:1], drawn(demo, noise, euler, sigmas, pick(latent, 2)), rtol=0, atol=1e-4)
    unfilled = noise.generate_noise({**found, "samples": torch.zeros(2, 4, 8, 8)})
    assert torch.equal(unfilled, noise.generate_noise(demo.empty(COUNT))[[2, 2]])

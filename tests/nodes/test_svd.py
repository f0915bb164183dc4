"""Decompose, Compose, Rescale, Exchange and SpectrumOperation in the real host."""

import pytest
import torch

RESCALE = dict(mode="gain", first=1, last=4, gain=1.5, exponent=0.9, threshold=1.0, keep_energy=False, strength=1.0)


def latent(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decompose(run, x, layout="channel", **rest):
    return run("Decompose", samples={"samples": x, **rest}, layout=layout)


@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (2, 16, 24, 40), (1, 16, 3, 12, 20), (1, 3, 1, 7)])
@pytest.mark.parametrize("layout", ["channel", "joint"])
def test_decompose_then_compose_is_the_latent(run, shape, layout):
    x = latent(*shape)
    svd, _ = decompose(run, x, layout)
    (back,) = run("Compose", svd=svd)
    assert back["samples"].shape == x.shape
    torch.testing.assert_close(back["samples"], x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_stay_half_precision(run, dtype):
    x = latent(1, 4, 16, 16).to(dtype)
    (back,) = run("Compose", svd=decompose(run, x)[0])
    assert back["samples"].dtype == dtype
    assert torch.equal(back["samples"], x)


def test_noise_mask_and_batch_index_come_back(run):
    mask = torch.ones(1, 1, 8, 8)
    svd, _ = decompose(run, latent(1, 4, 8, 8), noise_mask=mask, batch_index=[3])
    (edited,) = run("RescaleSingularValues", svd=svd, **RESCALE)
    (back,) = run("Compose", svd=edited)
    assert back["noise_mask"] is mask
    assert back["batch_index"] == [3]


def test_spectrum_is_a_picture(run):
    _, picture = decompose(run, latent(1, 4, 32, 32))
    assert picture.ndim == 4
    assert picture.shape[-1] == 3
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture.std() > 0.02


def test_rescale_multiplies_the_band_and_nothing_else(run):
    svd, _ = decompose(run, latent(1, 4, 16, 16))
    (edited,) = run("RescaleSingularValues", svd=svd, **RESCALE | dict(first=2, last=3, gain=2.0))
    expected = svd.svd.S.clone()
    expected[:, 1:3] *= 2
    torch.testing.assert_close(edited.svd.S, expected)


MODES = {
    "gain": {},
    "power": dict(exponent=1.3),
    "truncate": dict(last=3),
    "hard threshold": {},
    "soft threshold": {},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep_energy", [False, True])
def test_operation_on_a_latent_equals_decompose_rescale_compose(run, mode, keep_energy):
    x, settings = latent(2, 4, 24, 16), RESCALE | MODES[mode] | dict(mode=mode, keep_energy=keep_energy)
    (operation,) = run("SpectrumOperation", layout="channel", **settings)
    (edited,) = run("RescaleSingularValues", svd=decompose(run, x)[0], **settings)
    (back,) = run("Compose", svd=edited)
    direct = operation(latent=x)
    assert not torch.allclose(direct, x, atol=1e-3)
    torch.testing.assert_close(direct, back["samples"], rtol=1e-4, atol=1e-5)


def test_curve_weighs_the_gain_over_the_ranks(run):
    from comfy_api.input import CurveInput

    svd, _ = decompose(run, latent(1, 4, 16, 16))
    curve = CurveInput.from_raw({"points": [[0.0, 1.0], [1.0, 0.0]], "interpolation": "linear"})
    (edited,) = run("RescaleSingularValues", svd=svd, **RESCALE | dict(mode="curve", gain=3.0), curve=curve)
    gains = edited.svd.S / svd.svd.S
    torch.testing.assert_close(gains[0], torch.linspace(3, 1, 16), rtol=1e-4, atol=1e-4)


def test_strength_zero_is_the_latent_bit_for_bit(run):
    x = latent(1, 4, 16, 16)
    (operation,) = run("SpectrumOperation", layout="channel", **RESCALE | dict(strength=0.0))
    assert torch.equal(operation(latent=x), x)


def test_core_nodes_run_the_operation(run, demo):
    import comfy_extras.nodes_post_processing  # noqa: F401  (nodes_latent can only be imported after it)
    from comfy_extras.nodes_latent import LatentApplyOperation, LatentApplyOperationCFG

    x = latent(1, 3, 16, 16)
    (operation,) = run("SpectrumOperation", layout="channel", **RESCALE)
    applied = LatentApplyOperation.execute({"samples": x}, operation).args[0]["samples"]
    assert torch.equal(applied, operation(latent=x))

    import comfy.samplers

    euler = comfy.samplers.sampler_object("euler")
    patched = LatentApplyOperationCFG.execute(demo.model, operation).args[0]
    assert not torch.allclose(demo.sample(euler, model=patched), demo.sample(euler), atol=1e-2)


def test_exchange_of_all_triplets_gives_the_other_latent(run):
    a, b = latent(1, 4, 16, 24), latent(1, 4, 16, 24, seed=1)
    svds = dict(svd=decompose(run, a)[0], other=decompose(run, b)[0])
    (mixed,) = run("ExchangeSingularVectors", take="triplets", leading=0, **svds)
    torch.testing.assert_close(run("Compose", svd=mixed)[0]["samples"], b, rtol=1e-4, atol=1e-5)
    (partly,) = run("ExchangeSingularVectors", take="triplets", leading=2, **svds)
    assert torch.equal(partly.svd.S[:, :2], svds["other"].svd.S[:, :2])
    assert torch.equal(partly.svd.S[:, 2:], svds["svd"].svd.S[:, 2:])


def test_zero_latent_has_a_zero_spectrum(run):
    svd, picture = decompose(run, torch.zeros(1, 4, 16, 16))
    (edited,) = run("RescaleSingularValues", svd=svd, **RESCALE | dict(keep_energy=True))
    assert torch.equal(run("Compose", svd=edited)[0]["samples"], torch.zeros(1, 4, 16, 16))
    assert torch.isfinite(picture).all()


BAD_LATENTS = {
    "NaN": (torch.full((1, 4, 8, 8), float("nan")), "NaN or Inf"),
    "Inf": (torch.full((1, 4, 8, 8), float("inf")), "NaN or Inf"),
    "audio": (torch.zeros(1, 8, 100), "Audio"),
    "empty": (torch.zeros(0, 4, 8, 8), "no values"),
}


@pytest.mark.parametrize("name", BAD_LATENTS)
def test_latents_without_singular_values_are_refused(run, name):
    x, words = BAD_LATENTS[name]
    with pytest.raises(ValueError, match=words):
        decompose(run, x)


def test_nested_latent_is_refused(run):
    from comfy.nested_tensor import NestedTensor

    with pytest.raises(ValueError, match="nested"):
        decompose(run, NestedTensor([torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 100)]))


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(first=17), "first.*17.*16"),
        (dict(first=5, last=3), "last.*3.*5"),
        (dict(last=17), "last.*17.*16"),
        (dict(mode="truncate", last=17), "17"),
        (dict(mode="curve"), "curve.*Curve Editor"),
    ],
)
def test_a_band_out_of_range_is_refused(run, settings, words):
    svd, _ = decompose(run, latent(1, 4, 16, 16))
    with pytest.raises(ValueError, match=words):
        run("RescaleSingularValues", svd=svd, **RESCALE | settings)


def test_exchange_refuses_another_shape(run):
    with pytest.raises(ValueError, match="different shapes"):
        run(
            "ExchangeSingularVectors",
            take="values",
            leading=1,
            svd=decompose(run, latent(1, 4, 8, 8))[0],
            other=decompose(run, latent(1, 4, 8, 16))[0],
        )

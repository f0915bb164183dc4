"""The operation applied directly to a latent, against the full SVD."""

import numpy as np
import pytest
import torch

from pack.core.svd.applying import apply_spectrum
from pack.core.svd.decomposition import compose, decompose
from pack.core.svd.matrices import matricise, matrix_shape, unmatricise
from pack.core.svd.rescaling import Band, CurveGain, Power, SpectrumOperation, Threshold, Truncate, rescale

LAYOUTS = pytest.mark.parametrize("layout", ["channel", "joint"])
EDITS = {
    "all": Band(1, 0, 1.7),
    "first": Band(1, 1, 0.0),
    "tail": Band(2, 0, 0.25),
    "curve": CurveGain(lambda i: 1.5 - i),
    "flat curve": CurveGain(lambda i: np.full_like(i, 0.5)),
    "truncate": Truncate(1),
    "power 2": Power(2.0),
    "power 1/2": Power(0.5),
    "power 0": Power(0.0),
    "soft": Threshold(1.0),
    "hard": Threshold(1.155, "hard"),
    "soft at sigma": Threshold(0.5, sigma=1.0),
}
NEUTRAL = {
    "band": Band(1, 0, 1.0),
    "curve": CurveGain(np.ones_like),
    "power": Power(1.0),
    "soft": Threshold(0.0),
    "hard": Threshold(0.0, "hard"),
}
SETTINGS = pytest.mark.parametrize("settings", [{}, {"strength": 0.7, "keep_energy": True}], ids=["full", "in part"])


def by_full_svd(x, operation, layout="channel"):
    """The operation through the full SVD in float64."""
    X = matricise(x, layout).double()
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    return unmatricise(U * operation(S, matrix_shape(x.shape, layout))[:, None] @ Vh, tuple(x.shape), layout)


def same(actual, expected, tolerance=1e-6, *, beside=None):
    """Whether two latents differ by less than tolerance of the norm of the second, or of a third beside them."""
    beside = expected if beside is None else beside
    return (actual.double() - expected.double()).norm() <= tolerance * beside.double().norm()


@LAYOUTS
@SETTINGS
@pytest.mark.parametrize("name", EDITS)
def test_every_edit_of_every_latent_is_that_of_the_full_svd(latent, name, settings, layout):
    no_second_triplet = name == "tail" and matrix_shape(latent.shape, layout).rank == 1
    operation = SpectrumOperation(Band(1, 0, 0.25) if no_second_triplet else EDITS[name], **settings)
    expected = by_full_svd(latent, operation, layout)
    direct = apply_spectrum(latent, operation, layout=layout)
    assert same(direct, expected, beside=latent)
    assert same(compose(rescale(decompose(latent, layout=layout), operation)), expected, beside=latent)
    assert (direct.dtype, direct.shape, direct.device) == (latent.dtype, latent.shape, latent.device)


@SETTINGS
@pytest.mark.parametrize("edit", [Band(3, 4, 2.0), Band(5, 0, 0.0), Truncate(4), Truncate(100), Threshold(1.0), Power(0.5)], ids=str)
@pytest.mark.parametrize("values", [0.85 ** torch.arange(256), torch.linspace(2, 0.01, 256)], ids=["decaying", "flat"])
def test_large_latents(edit, settings, values, spectrum_of):
    x = spectrum_of(values, 256, 288, count=2)[None].float()
    operation = SpectrumOperation(edit, **settings)
    assert same(apply_spectrum(x, operation), by_full_svd(x, operation))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.float64, 1e-9)])
@pytest.mark.parametrize("name", EDITS)
def test_dtypes(name, dtype, tolerance):
    x = torch.randn(1, 4, 24, 32).to(dtype)
    y = apply_spectrum(x, SpectrumOperation(EDITS[name]))
    assert y.dtype == dtype
    assert same(y, by_full_svd(x, SpectrumOperation(EDITS[name])), tolerance)


@pytest.mark.parametrize("name", EDITS)
def test_strength_0_is_the_latent_itself(name):
    x = torch.randn(1, 4, 16, 24).half()
    operation = SpectrumOperation(EDITS[name], strength=0.0, keep_energy=True)
    assert apply_spectrum(x, operation) is x
    svd = decompose(x)
    assert torch.equal(rescale(svd, operation).S, svd.S)


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("keep_energy", [False, True])
def test_neutral_edit_is_the_identity(name, keep_energy):
    x = torch.randn(1, 4, 16, 24)
    assert same(apply_spectrum(x, SpectrumOperation(NEUTRAL[name], keep_energy=keep_energy)), x)


def test_truncation_to_the_full_rank_and_a_band_of_gain_1_return_equal_values():
    x = torch.randn(1, 4, 16, 24)
    for edit in (Truncate(16), Band(3, 5, 1.0)):
        assert torch.equal(apply_spectrum(x, SpectrumOperation(edit)), x)


@pytest.mark.parametrize("name", EDITS)
def test_strength_is_linear(name):
    x = torch.randn(1, 4, 16, 24)
    full = apply_spectrum(x, SpectrumOperation(EDITS[name]))
    for strength in (-1.0, 0.5, 2.0):
        assert same(apply_spectrum(x, SpectrumOperation(EDITS[name], strength)), x + strength * (full - x))


@pytest.mark.parametrize("name", [name for name in EDITS if name != "first"])
@pytest.mark.parametrize("strength", [0.3, 1.0, 1.5])
def test_keep_energy_keeps_the_norm_of_each_channel(name, strength):
    x = torch.randn(2, 4, 16, 24) + torch.outer(torch.ones(16), torch.arange(24))
    y = apply_spectrum(x, SpectrumOperation(EDITS[name], strength, keep_energy=True))
    torch.testing.assert_close(y.flatten(2).norm(dim=2), x.flatten(2).norm(dim=2))


@pytest.mark.parametrize("name", EDITS)
def test_zero_latents_and_zero_channels_stay_zero(name):
    x = torch.randn(1, 4, 16, 24)
    x[0, 2] = 0
    y = apply_spectrum(x, SpectrumOperation(EDITS[name], keep_energy=True))
    assert torch.equal(y[0, 2], x[0, 2])
    assert torch.isfinite(y).all()


@LAYOUTS
@pytest.mark.parametrize("name", EDITS)
def test_batch_is_singles_and_permutes(name, layout):
    x = torch.randn(3, 4, 16, 24)
    operation = SpectrumOperation(EDITS[name], keep_energy=True)
    y = apply_spectrum(x, operation, layout=layout)
    assert same(y, torch.cat([apply_spectrum(sample[None], operation, layout=layout) for sample in x]))
    assert same(apply_spectrum(x[[2, 0, 1]], operation, layout=layout), y[[2, 0, 1]])


@pytest.mark.parametrize("name", EDITS)
def test_transposed_latent_gives_the_transposed_edit(name):
    x = torch.randn(1, 4, 16, 24)
    operation = SpectrumOperation(EDITS[name])
    assert same(apply_spectrum(x.mT, operation), apply_spectrum(x, operation).mT)


@pytest.mark.parametrize("name", EDITS)
def test_input_is_not_modified_and_inference_mode_works(name):
    with torch.inference_mode():
        x = torch.randn(1, 4, 16, 24)
        before = x.clone()
        first = apply_spectrum(x, SpectrumOperation(EDITS[name]))
        assert torch.equal(x, before)
        assert torch.equal(apply_spectrum(x, SpectrumOperation(EDITS[name])), first)


def test_soft_threshold_at_the_edge_removes_noise_and_keeps_signal(spectrum_of):
    signal = 100 * spectrum_of(torch.tensor([5.0, 3.0, 2.0]), 64, 64)[None]
    noisy = signal + torch.randn(1, 4, 64, 64)
    svd = rescale(decompose(noisy), SpectrumOperation(Threshold(1.1)))
    assert ((svd.S > 0).sum(1) == 3).all()
    hard = apply_spectrum(noisy, SpectrumOperation(Threshold(1.1, "hard")))
    assert (hard - signal).norm() < 0.4 * (noisy - signal).norm()


@pytest.mark.parametrize(
    "edit, said",
    [
        (Band(17, 0, 2.0), "first: got 17.* 16 triplets"),
        (Band(0, 3, 2.0), "first: got 0.* 16 triplets"),
        (Band(2, 17, 2.0), "last: got 17.* 16 triplets"),
        (Band(5, 4, 2.0), "last: got 4"),
        (Truncate(17), "last: got 17.* 16 triplets"),
        (CurveGain(lambda i: i * np.nan), "curve: "),
    ],
)
def test_out_of_range_states_the_rank_of_the_latent(edit, said):
    x = torch.randn(1, 4, 16, 24)
    with pytest.raises(ValueError, match=said):
        apply_spectrum(x, SpectrumOperation(edit))
    with pytest.raises(ValueError, match=said):
        rescale(decompose(x), SpectrumOperation(edit))


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_latents_without_singular_values_are_refused(strength):
    operation = SpectrumOperation(Band(), strength)
    for x in (torch.full((1, 4, 8, 8), torch.inf), torch.zeros(1, 8, 100)):
        with pytest.raises(ValueError, match="^latent: "):
            apply_spectrum(x, operation)

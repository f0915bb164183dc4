"""Directions found: running means, principal components, and singular vectors of a Jacobian."""

import pytest
import torch

from pack.core.hspace.discovery import Jacobian, Means, NoGradient, aligned, principal_components


def test_running_means_equal_the_mean():
    means, data = Means(), torch.randn(5, 6, 2, 2)
    for part in (data[:2], data[2:]):
        means.add(1.0, part)
        means.add(3.0, 2 * part)
    shifts, levels = means.result()
    assert levels == (3.0, 1.0)
    torch.testing.assert_close(shifts, torch.stack([2 * data.mean(0), data.mean(0)]))


def test_principal_components_find_a_planted_direction_in_units_of_its_deviation():
    generator = torch.Generator().manual_seed(0)
    axis = torch.randn(6, 4, 4, generator=generator)
    amounts = torch.randn(200, generator=generator)
    samples = 3 + amounts[:, None, None, None] * axis + 0.01 * torch.randn(200, 6, 4, 4, generator=generator)
    components, total = principal_components(samples, 2)
    expected = axis * amounts.std() * axis.flatten()[axis.abs().argmax()].sign()
    torch.testing.assert_close(components[0], expected, rtol=0.02, atol=0.02)
    assert components[0].square().sum() / total > 0.99
    exact = torch.linalg.svdvals((samples - samples.mean(0)).flatten(1).double())[:2] / 199**0.5
    torch.testing.assert_close(components.flatten(1).norm(dim=1).double(), exact, rtol=1e-4, atol=1e-6)


def test_components_are_followed_through_exchanges_and_signs():
    base = torch.linalg.qr(torch.randn(96, 3))[0].T.reshape(3, 6, 4, 4)
    followed = aligned([base, -base[[1, 0, 2]], base[[2, 1, 0]]])
    for level in followed:
        torch.testing.assert_close(level, base)


def test_power_iteration_finds_the_singular_vectors_of_a_map_and_keeps_off_what_it_must():
    from pack.core.hspace.discovery import Jacobian, leading_right_vectors

    generator = torch.Generator().manual_seed(3)
    u, v = (torch.linalg.qr(torch.randn(n, 6, generator=generator, dtype=torch.float64))[0] for n in (40, 12))
    matrix = u @ torch.diag(torch.tensor([9.0, 6.0, 4.0, 2.0, 1.0, 0.5], dtype=torch.float64)) @ v.T

    def f(x):
        return torch.tanh(x.flatten(1) @ matrix.T * 1e-2) * 1e2  # its Jacobian at 0 is the matrix

    found, values = leading_right_vectors(Jacobian(f, 1e-3), torch.randn(3, 3, 4, generator=generator, dtype=torch.float64), 60)
    torch.testing.assert_close(values.double(), torch.tensor([9.0, 6.0, 4.0], dtype=torch.float64), rtol=1e-3, atol=0)
    torch.testing.assert_close((found.flatten(1) @ v[:, :3]).abs(), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-3)
    rest, values = leading_right_vectors(
        Jacobian(f, 1e-3), torch.randn(1, 3, 4, generator=generator, dtype=torch.float64), 60, avoid=found[:2]
    )
    torch.testing.assert_close((rest.flatten(1) @ v[:, :3]).abs(), torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), rtol=0, atol=1e-3)
    masked = Jacobian(f, 1e-3, (torch.arange(40) < 20).double())
    expected = torch.linalg.svdvals(matrix[:20])[0]
    assert leading_right_vectors(masked, torch.randn(2, 3, 4, generator=generator, dtype=torch.float64), 80)[1][0].item() == pytest.approx(
        expected.item(), rel=1e-3
    )


def test_a_gradient_that_is_not_finite_is_refused():
    with pytest.raises(NoGradient, match="f: its gradient"):
        Jacobian(torch.sqrt, 1e-3).reverse(torch.ones(1, 4), torch.zeros(1, 4))

"""Latents that are hard for a singular value decomposition, by name."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor


def matrices_with(values: Tensor, rows: int, cols: int, count: int = 4) -> Tensor:
    """Matrices (count, rows, cols), float64, with the given singular values and random vectors."""
    generator = torch.Generator().manual_seed(7)
    left, right = (torch.randn(count, size, len(values), generator=generator, dtype=torch.float64) for size in (rows, cols))
    return torch.linalg.qr(left).Q * values.double() @ torch.linalg.qr(right).Q.mT


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _signal_in_noise() -> Tensor:
    return (40 * matrices_with(torch.tensor([5.0, 3.0, 2.0]), 48, 64) + _noise(4, 48, 64)).float()[None]


def _partly_zero() -> Tensor:
    x = _noise(2, 3, 24, 32)
    x[0, 1] = 0
    return x


LATENTS: dict[str, Callable[[], Tensor]] = {
    "noise": lambda: 14.6 * _noise(2, 4, 32, 32),
    "signal in noise": _signal_in_noise,
    "wide": lambda: _noise(1, 4, 24, 40),
    "tall": lambda: _noise(2, 3, 41, 23),
    "smooth": lambda: matrices_with(torch.logspace(0, -4, 48), 48, 48).float()[None],
    "low rank": lambda: matrices_with(torch.tensor([3.0, 1.0, 0.5]), 32, 48).float()[None],
    "constant": lambda: torch.full((1, 4, 16, 24), 0.75),
    "zero": lambda: torch.zeros(1, 4, 16, 24),
    "partly zero": _partly_zero,
    "pixel": lambda: _noise(2, 4, 1, 1),
    "row": lambda: _noise(1, 4, 1, 9),
    "column": lambda: _noise(1, 4, 9, 1),
    "video": lambda: _noise(2, 5, 3, 12, 20),
    "many channels": lambda: _noise(1, 33, 4, 5),
}


@pytest.fixture(autouse=True)
def fixed_surroundings() -> Iterator[None]:
    """A fixed seed, and one thread: on a busy machine threads that wait for each other take longer than the work."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=LATENTS)
def latent(request: pytest.FixtureRequest) -> Tensor:
    """Every latent of the collection in turn."""
    return LATENTS[request.param]()


@pytest.fixture
def spectrum_of() -> Callable[..., Tensor]:
    """Matrices with given singular values, float64."""
    return matrices_with

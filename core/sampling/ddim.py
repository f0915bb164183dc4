"""The DDIM step in the frame x = x0 + sigma eps, and the sampler with quality boosting (Song et al. 2021; Kwon et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .steps import at_or_below

Denoiser = Callable[..., Tensor]


def euler_step(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """x' = D + sigma' (x - D) / sigma, a step of DDIM with eta 0 in the frame x = x0 + sigma eps."""
    return asymmetric_step(x, denoised, denoised, sigma, sigma_next)


def asymmetric_step(x: Tensor, edited: Tensor, plain: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """x' = D~ + sigma' (x - D) / sigma: the foreseen picture is the edited one, the noise the unedited one's (Kwon et al. 2023, eq. 2)."""
    return edited + sigma_next * (x - plain) / sigma


def ddim_levels(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(sigma_down, sigma_up) of a DDIM step with noise share eta (Song et al. 2021, eq. 16), in the frame x = x0 + sigma eps.

    sigma_up^2 = eta^2 sigma'^2 (sigma^2 - sigma'^2) / sigma^2, and sigma_down^2 + sigma_up^2 = sigma'^2.
    """
    if sigma_next == 0:
        return 0.0, 0.0
    up = min(sigma_next, eta * math.sqrt(max(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2, 0.0)))
    return math.sqrt(sigma_next**2 - up**2), up


def ddim_parts(sigma: float, sigma_next: float, eta: float, flow: bool) -> tuple[float, float, float]:
    """(sigma_down, keep, up): a step goes down to sigma_down, then x is multiplied by keep, and noise of deviation up added.

    In a flow model x = (1 - sigma) x0 + sigma eps. Divided by 1 - sigma, that is the frame x0 + sigma eps, in which keep is 1.
    """
    if not flow:
        down, up = ddim_levels(sigma, sigma_next, eta)
        return down, 1.0, up
    after = sigma_next / (1 - sigma_next)
    share = 0.0 if sigma >= 1 else (after * (1 - sigma) / sigma) ** 2
    up = min(after, eta * after * math.sqrt(max(1 - share, 0.0)))
    down = math.sqrt(after**2 - up**2)
    return down / (1 + down), (1 - sigma_next) * (1 + down), (1 - sigma_next) * up


def sample_ddim(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    eta: float = 0.0,
    boost_below: float = 0.0,
    flow: bool = False,
    noise: Callable[[Tensor, Tensor], Tensor] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    announce: Callable[[float], dict[str, Any]] | None = None,
    options: dict[str, Any] | None = None,
) -> Tensor:
    """DDIM with noise share eta, and eta = 1 where a step starts at boost_below or below (quality boosting, Kwon et al. 2023, 3.4).

    model(x, sigma (b,), **options) gives the denoised latent of x: (b, ...). sigmas: (steps + 1,) descending.
    flow: x is that of a flow model, (1 - sigma) x0 + sigma eps. noise(sigma, sigma') gives a step's random numbers.
    announce(sigma_down) gives further options of a step's call: sigma_down is the level that its deterministic part goes down to, from
    which the asymmetric gain follows.
    """
    levels = sigmas.tolist()
    for i, (sigma, sigma_next) in enumerate(zip(levels, levels[1:])):
        down, keep, up = ddim_parts(sigma, sigma_next, 1.0 if at_or_below(sigma, boost_below) else eta, flow)
        extra = announce(down) if announce else options or {}
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **extra)
        if callback:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = euler_step(x, denoised, sigma, down)
        if up and noise:
            x = keep * x + up * noise(sigmas[i], sigmas[i + 1])
    return x

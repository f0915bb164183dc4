"""The asymmetric reverse process (Asyrp, Kwon et al. 2023) and the DDIM step, in the host's frame x = x0 + sigma eps.

The process shifts h only where the denoised latent is predicted, not where the noise is put back:

    x' = D~ + sigma' (x - D) / sigma

with D the denoised latent, D~ the one with h shifted, sigma' the next noise level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from .steps import at_or_below

Denoiser = Callable[..., Tensor]
LARGEST_GAIN = 1e3


def euler_step(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """x' = D + sigma' (x - D) / sigma, a step of DDIM with eta 0 in the frame x = x0 + sigma eps."""
    return denoised + sigma_next * (x - denoised) / sigma


def asymmetric_gain(sigma: float, sigma_next: float) -> float:
    """Gain g with which `D + g (D~ - D)` makes a first-order step the asymmetric one: 1 / (1 - sigma'/sigma), at most 1000.

    Put into x' = D_eff + sigma' (x - D_eff) / sigma, it gives D~ + sigma' (x - D) / sigma. Raises ValueError unless
    0 <= sigma' < sigma.
    """
    if not 0 <= sigma_next < sigma:
        raise ValueError(f"sigmas: an asymmetric step goes down, from sigma to a smaller one; got {sigma:.4g} to {sigma_next:.4g}.")
    return min(1 / (1 - sigma_next / sigma), LARGEST_GAIN)


def matched_scale(sigmas: Sequence[float], weights: Sequence[float]) -> float:
    """Strength of the asymmetric process, in units of a symmetric shift of equal total effect to first order.

    A symmetric shift enters x with weight 1 - sigma'/sigma at each step, an asymmetric one with weight 1: its effect
    grows with the number of steps. The ratio of the two sums over the steps (weights: one a step, 0 outside the window)
    makes both alike, and the edit independent of the number of steps. Plays the role of n_ref / n in the authors' code.
    """
    shares = [1 - after / before for before, after in zip(sigmas, sigmas[1:])]
    return sum(w * s for w, s in zip(weights, shares, strict=True)) / sum(weights)


def ddim_levels(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(sigma_down, sigma_up) of a DDIM step with noise share eta (Song et al. 2021, eq. 16), in the host's frame.

    sigma_up^2 = eta^2 sigma'^2 (sigma^2 - sigma'^2) / sigma^2, and sigma_down^2 + sigma_up^2 = sigma'^2.
    """
    if sigma_next == 0:
        return 0.0, 0.0
    up = min(sigma_next, eta * math.sqrt(max(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2, 0.0)))
    return math.sqrt(sigma_next**2 - up**2), up


def ddim_parts(sigma: float, sigma_next: float, eta: float, flow: bool) -> tuple[float, float, float]:
    """(sigma_down, keep, up): a step goes down to sigma_down, then x is multiplied by keep, and noise of deviation up added.

    In a flow model x = (1 - sigma) x0 + sigma eps, which is the host's other frame divided by 1 - sigma; keep is 1 there.
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
    noise: Callable[[float, float], Tensor] | None = None,
    callback: Callable[[dict], None] | None = None,
    announce: Callable[[float], dict] | None = None,
    options: dict | None = None,
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

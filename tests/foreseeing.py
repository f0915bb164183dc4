"""A denoiser that foresees what a test says."""

from types import SimpleNamespace


class Foreseeing:
    """A denoiser as samplers call it, for a model's noise levels and latents."""

    def __init__(self, world, foresee):
        self.inner_model, self.foresee = SimpleNamespace(model_patcher=world.model), foresee

    def __call__(self, x, sigma, **options):
        return self.foresee(x, float(sigma[0]))

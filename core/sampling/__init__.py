"""Samplers as functions of a denoiser: DDIM, inversion, edits inside a run, and its record."""

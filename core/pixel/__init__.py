"""Checkpoints of diffusion models that draw pixels: their layouts, what their shapes say, and their files."""

"""Directions in h-space, the middle block's output (Kwon et al. 2023; Haas et al. 2024)."""

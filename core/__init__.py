"""Tensor mathematics of the pack: tensors in, tensors out. Nothing here knows ComfyUI."""

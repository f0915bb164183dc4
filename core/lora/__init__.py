"""Slider LoRAs: what one is trained for, and its file."""

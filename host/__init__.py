"""All that the pack knows of ComfyUI's insides. What breaks with a new ComfyUI is mended here."""

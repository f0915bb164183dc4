"""Attribute vector integration (Wang et al. 2025): what an attribute is, how it is learned, applied and kept."""

"""Latent SVD (Wang et al. 2025): a latent code as singular triplets, and what is done with them."""

"""DALL-E 2's two halves, one by one: ``sample_prior``, ``decode_embedding``, ``variations``.

unCLIP (Ramesh et al. 2022, arXiv 2204.06125) makes a picture of words in two steps: the *prior*
makes a picture's CLIP embedding of the words, the *decoder* a picture of the embedding. Between
the two lies a vector that can be added to, walked along, and decoded many times.

    z = ldmkit.sample_prior(unclip, "a red cat", seed=0)
    traj = ldmkit.decode_embedding(unclip, z, seed=0)
"""

from ldmkit.space.decoding import decode_embedding, variations
from ldmkit.space.sampling import sample_prior

__all__ = ["decode_embedding", "sample_prior", "variations"]

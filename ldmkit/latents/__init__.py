"""Latents by hand: encode a picture, decode what a run left, find the noise it came from."""

from ldmkit.latents.codec import decode_latents, encode_image

__all__ = ["decode_latents", "encode_image"]

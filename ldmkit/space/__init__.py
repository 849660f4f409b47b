"""CLIP space: encode words and pictures, walk between them, add and subtract, decode.

Empty on purpose: ``ldmkit.slerp`` costs no torch, so each name is found in its own module.
"""

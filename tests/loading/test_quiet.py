"""What `load` leaves out of the import of diffusers is there for whoever asks for it."""

import subprocess
import sys

import pytest

CODE = """
import sys
import ldmkit
pipe = ldmkit.load("critters")
loaded = [name for name in sys.modules if name.startswith("diffusers.models.transformers.")]
assert len(loaded) < 20, loaded  # of some eighty
from diffusers.models.transformers import FluxTransformer2DModel
from diffusers.models import AutoencoderTiny, autoencoders
import diffusers
assert autoencoders.AutoencoderTiny is AutoencoderTiny is diffusers.AutoencoderTiny
assert FluxTransformer2DModel is diffusers.FluxTransformer2DModel
assert type(pipe.vae) is autoencoders.AutoencoderKL
try:
    autoencoders.NoSuchNetwork
except AttributeError:
    pass
else:
    raise AssertionError("a name that does not exist was found")
"""


@pytest.mark.slow
def test_a_network_that_was_left_out_comes_when_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr

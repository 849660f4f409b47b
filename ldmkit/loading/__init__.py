"""A name, hub id, folder or pipeline of your own to a plain diffusers pipeline on a device.

Importing this loads no torch: that comes with the first call that needs it.
"""

from ldmkit.loading.anatomy import anatomy
from ldmkit.loading.catalog import models
from ldmkit.loading.device import release
from ldmkit.loading.open import fetch, load
from ldmkit.records.stats import Table

__all__ = ["Table", "anatomy", "fetch", "load", "models", "release"]

"""How the documentation is built: `sphinx-build -W docs docs/_build/html`.

The notebooks run while it is built, with the embedded models; LDMKIT_DOCS_EXECUTE=off leaves them
without outputs. The pages need no network: nothing in them is fetched from anywhere.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
# Kernels inherit these, as in tests/conftest.py.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from lessons import package_digest  # noqa: E402

from ldmkit import __version__  # noqa: E402

project = "ldmkit"
author = "The ldmkit authors"
copyright = "The ldmkit authors; Apache-2.0"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_nb",
    "catalog",
    "docstrings",
    "lessons",
    "local_math",
]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings say `name`, as Markdown does
smartquotes = False  # --minutes is an option, not a dash

html_theme = "furo"
html_title = f"ldmkit {version}"
html_static_path = ["_static"]
html_css_files = ["ldmkit.css"]
html_show_sourcelink = False
html_copy_source = False

# --- the notebooks -------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = {"off": "off"}.get(os.environ.get("LDMKIT_DOCS_EXECUTE", "on"), "cache")
# A notebook's outputs are those of this very ldmkit, so a change to the package runs it again.
nb_execution_cache_path = str(HERE / "_build" / "executed" / package_digest())
nb_execution_in_temp = True
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_ipywidgets_js = {}  # require.js from a content network; `lessons` puts pictures in its place

# --- the reference -------------------------------------------------------------------------------

autosummary_generate = False  # the tables link to what stands on the same page
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # shapes stand in the words
napoleon_custom_sections = [("Attributes", "params_style")]  # or they would be "Variables"
python_maximum_signature_line_length = 80

"""Sphinx's configuration: what it reads is in this folder, and in the tables of the code (`_ext`)."""

import os
import sys
from pathlib import Path

os.environ["SHADOWMMU_INTERPRETED"] = "1"  # docstrings and signatures as written; races need it, too
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from shadowmmu import __version__

project = "shadowmmu"
author = "the shadowmmu project"
copyright = "the shadowmmu project. GPL-2.0-or-later"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "generated",
    "histories",
]
exclude_patterns = ["_ext"]
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
nitpicky = False  # types in signatures are not all pages of their own
default_role = "code"  # docstrings write `names` so
napoleon_use_ivar = True  # `Attributes:` of a class is a list, not a second description of its fields
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
smartquotes = False  # options are written --so
highlight_language = "text"
suppress_warnings: list[str] = []

html_theme = "furo"
html_title = "shadowmmu"
html_static_path = ["_static"]
html_css_files = ["shadowmmu.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True, "sidebar_hide_name": False}
pygments_style = "friendly"
pygments_dark_style = "monokai"

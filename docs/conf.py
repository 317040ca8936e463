"""Sphinx's configuration: Markdown pages by MyST, the API by autodoc, the settings by our own directive."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "tracker-daemon"
author = "the tracker-daemon developers"
release = version = metadata.version("tracker-daemon")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "settings_tables"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
add_module_names = False

html_theme = "furo"
html_title = "tracker-daemon"
html_theme_options = {"top_of_page_buttons": []}
html_show_copyright = False

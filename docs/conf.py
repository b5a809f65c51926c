"""How Sphinx builds these documents: `python3 dev.py docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from sphinx.ext.napoleon import Config, GoogleDocstring

from durable_sync._version import __version__

project = "durable_sync"
author = "the durable_sync authors"
project_copyright = f"2026, {author}"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"durable_sync {release}"

# Documents are Markdown. `{py:class}` and the like work in them; docstrings are reStructuredText.
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"show-inheritance": True}
# `TaskHandle` in a docstring links to it where there is something to link to.
default_role = "py:obj"


def fences_to_blocks(*arguments):  # type: ignore[no-untyped-def]
    """Let docstrings have Markdown's code fences, as the documents do."""
    lines = arguments[-1]
    inside = False
    converted = []
    for line in lines:
        if line.lstrip().startswith("```"):
            inside = not inside
            language = line.strip().strip("`") or "text"
            converted += [f".. code-block:: {language}", ""] if inside else [""]
        else:
            converted.append(f"    {line}" if inside else line)
    lines[:] = converted


def sections_to_fields(app, what, name, obj, options, lines):  # type: ignore[no-untyped-def]
    """Let classes have sections (`Args:`). Not attributes: napoleon takes what is before a colon for a type."""
    if what == "class":
        lines[:] = GoogleDocstring("\n".join(lines), Config(), app, what, name, obj, options).lines()


def setup(app):  # type: ignore[no-untyped-def]
    app.connect("autodoc-process-docstring", sections_to_fields)
    app.connect("autodoc-process-docstring", fences_to_blocks)

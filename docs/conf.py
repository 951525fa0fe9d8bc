"""Sphinx configuration of ``make docs``: one folder of HTML that needs no connection."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docutils.nodes import Element
from pygments.lexers.special import TextLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import fedtoll

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "fedtoll"
author = "the authors of fedtoll"
copyright = "the authors of fedtoll, Apache-2.0"
version = release = fedtoll.__version__
language = "en-GB"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
    "commands",
    "generated",
]
exclude_patterns = ["extensions"]

# Check links to headings of other pages, too.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

html_theme = "furo"
html_theme_options = {"light_css_variables": {"code-font-size": "76%"}}  # so that 100 terminal columns fit
html_title = f"fedtoll {version}"
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False

# Names of fedtoll must resolve. Names of other libraries would need their websites.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!fedtoll\b).*")]


def _shorter(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> Element | None:
    """Resolve fedtoll.package.module.name to fedtoll.package.name, under which it is documented."""
    parts = str(node.get("reftarget", "")).split(".")
    if node.get("refdomain") != "py" or len(parts) < 3:
        return None
    domain = env.get_domain("py")
    short = ".".join((*parts[:-2], parts[-1]))
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], short, node, content)


def _bars(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Escape |x| in docstrings, where it is an absolute value; docutils would read it as a substitution."""
    lines[:] = [
        line if line.lstrip().startswith((">>>", "...")) else re.sub(r"(?<!`)\|(?!`)", r"\|", line)
        for line in lines
    ]


def setup(app: Sphinx) -> None:
    """Register the csv lexer, and the hooks for cross-references and docstrings."""
    app.add_lexer("csv", TextLexer)
    app.connect("missing-reference", _shorter)
    app.connect("autodoc-process-docstring", _bars, priority=900)  # after napoleon

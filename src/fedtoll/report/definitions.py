"""Links from the terms of a sentence to their definitions, which ``definitions.html`` has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fedtoll.scenarios.visible import visible

if TYPE_CHECKING:
    from markupsafe import Markup

_LINKED = (
    ("nats of log-loss", "nats"),
    ("95% interval", "interval"),
    ("true-positive rate|false-positive rate", "rate"),
    ("collapsed(?= in )", "collapsed"),
    ("(?:toll|price) gap", "gap"),
    ("tolls?(?= (?:are|is|of|by) )", "toll"),
    ("price(?= (?:of|is) )", "price"),
)
"""Patterns of terms, and the definitions that they link to."""


def linked(text: str) -> Markup:
    """Return a sentence as HTML, where the first use of each term links to its definition.

    Examples
    --------
    >>> print(linked("<b> pays 0.1 nats of log-loss"))
    &lt;b&gt; pays 0.1 <a class="term" href="#def-nats">nats of log-loss</a>
    """
    from markupsafe import Markup, escape

    html = str(escape(visible(text)))
    for pattern, key in _LINKED:
        link = rf'<a class="term" href="#def-{key}">\g<0></a>'
        html = re.sub(rf"\b(?:{pattern})", link, html, count=1)
    return Markup(html)

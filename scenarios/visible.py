"""Show characters that a terminal or browser obeys instead of drawing them: control and bidirectional ones.

Names come from files of unknown origin. A control character could move the cursor or rename the terminal,
and a bidirectional one could show a name or a number in another order than it has. So text is changed where
it leaves: :mod:`fedtoll.console`, and the pages, charts and tables of reports and findings.
"""

from __future__ import annotations

import re
from typing import Any

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, without tabs and line feeds
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional ones
    "\u00ad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # not drawn
    "\u2028\u2029\ud800-\udfff]"  # separators of lines and paragraphs, and halves of characters
)
"""Joiners of letters are not among them: some languages need them, and they reorder nothing."""


def visible(text: str) -> str:
    r"""Return a text with an escape, as JSON writes it, in place of every character that is obeyed.

    So text that is JSON is still the same JSON.

    Examples
    --------
    >>> print(visible("a\u202eb\x1b[2J"))
    a\u202eb\u001b[2J
    """
    return _OBEYED.sub(lambda match: escape(match[0]), text)


def all_visible(value: Any) -> Any:
    """Return a value whose texts are all :func:`visible`, in lists and dictionaries too."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {all_visible(k): all_visible(v) for k, v in value.items()}
    return [all_visible(v) for v in value] if isinstance(value, list) else value


def escape(character: str) -> str:
    r"""Return the escape of one character; JSON has two for one that needs more than four digits.

    Examples
    --------
    >>> print(escape("\x07"), escape("\U000e0001"))
    \u0007 \udb40\udc01
    """
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))

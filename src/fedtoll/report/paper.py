"""The table of tolls for papers, in LaTeX (booktabs) and Markdown."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable

from fedtoll.formatting import count, group_label, interval, number
from fedtoll.report.digest import Digest
from fedtoll.scenarios.measures import EVERYBODY

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line break it would start an optional argument
    "]": "{]}",
    "*": "{*}",
    '"': r"\texttt{\char34}",  # \textquotedbl is not in LaTeX's default encoding
    "“": "``",
    "”": "''",
    "−": r"\ensuremath{-}",
    "–": "--",
    "∞": r"\ensuremath{\infty}",
    "ε": r"\ensuremath{\varepsilon}",
    "±": r"\ensuremath{\pm}",
    "-": "{-}",  # two of them would become a dash
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$]|:(?=//))")


def latex(results: Digest) -> str:
    """Return a ``tabular`` of the tolls at every ε: a block per strategy, the largest toll first.

    It needs the packages booktabs and textcomp. Names are escaped, so that none acts as a command; names in
    non-Latin scripts need xelatex or lualatex, and a font that has them.
    """
    title, columns, blocks = _content(results, tex)
    lines = [
        f"% {title}",
        "% needs \\usepackage{booktabs,textcomp}; names in non-Latin scripts need xelatex or lualatex",
        "% wider than the text? \\resizebox{\\textwidth}{!}{\\input{tolls}} with graphicx, or landscape",
        f"\\begin{{tabular}}{{lr{'r' * (len(columns) - 2)}}}",
        "\\toprule",
        " & ".join(columns) + r" \\",
    ]
    for strategy, rows in blocks:
        lines += ["\\midrule", f"\\multicolumn{{{len(columns)}}}{{l}}{{{strategy}}} \\\\"]
        lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def markdown(results: Digest) -> str:
    """Return the tolls at every ε as a Markdown table with a column for the strategy."""
    title, columns, blocks = _content(results, md)
    lines = [
        title,
        "",
        f"| {' | '.join(['Strategy', *columns])} |",
        f"|---|---|{'---:|' * (len(columns) - 1)}",
    ]
    lines += [f"| {' | '.join([strategy, *row])} |" for strategy, rows in blocks for row in rows]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    r"""Escape a string for LaTeX.

    Examples
    --------
    >>> print(tex("R&D_50% --x [a]"))
    R\&D\_50\% {-}{-}x {[}a{]}
    """
    return "".join(_LATEX.get(c, c) for c in _one_line(text))


def md(text: str) -> str:
    r"""Escape a string for Markdown.

    Examples
    --------
    >>> print(md("<b>a|b</b> *x*"))
    &lt;b&gt;a\|b&lt;/b&gt; \*x\*
    """
    text = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", text)


def _one_line(text: str) -> str:
    """Replace control characters and line breaks by spaces."""
    return "".join(" " if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else c for c in text)


Blocks = list[tuple[str, list[list[str]]]]


def _content(digest: Digest, escape: Callable[[str], str]) -> tuple[str, list[str], Blocks]:
    """Return the title, the column names and the rows of each strategy, all escaped."""
    private = digest.loss[digest.loss["mechanism"] == "dp-sgd"]
    epsilons = sorted(private["epsilon"].unique(), reverse=True)
    seeds = f"{digest.seeds} seed{'s' if digest.seeds > 1 else ''}"
    name = str(digest.results.resolved.get("scenario", {}).get("name", "results"))
    title = (
        f"{name}: {digest.word} in log-loss (nats) by group and ε, mean over {seeds} "
        "(95% interval over seeds)"
    )
    columns = [digest.attribute, "n", *(f"ε = {e:g}" for e in epsilons)]
    blocks = []
    for strategy in digest.strategies:
        own = private[private["strategy"] == strategy]
        tolls = own[["group", "epsilon", "toll", "toll_low", "toll_high"]].itertuples(index=False, name=None)
        cells = {(g, e): _toll(toll, low, high) for g, e, toll, low, high in tolls}
        rows = []
        for group in [*digest.order, EVERYBODY]:
            n = own.loc[own["group"] == group, "n"]
            if len(n):
                few = bool(own.loc[own["group"] == group, "too_few"].any())
                label = group_label(group, digest.attribute) + (" (too few)" if few else "")
                row = [label, count(n.iloc[0]), *(cells.get((group, e), "–") for e in epsilons)]
                rows.append([escape(cell) for cell in row])
        if rows:
            blocks.append((escape(strategy), rows))
    return escape(title), [escape(c) for c in columns], blocks


def _toll(toll: float, low: float, high: float) -> str:
    if math.isnan(toll):
        return "–"
    within = interval(low, high)
    return number(toll) + ("" if within == "none" else f" ({within})")

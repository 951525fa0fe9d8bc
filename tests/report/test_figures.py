"""The figures for papers: the same bytes each time, and names that are no command."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from fedtoll.report import write_figures
from fedtoll.report.figures import FIGURES
from fedtoll.report.paper import latex, markdown, md, tex


@pytest.mark.slow
def test_every_main_chart_is_drawn_twice_alike(clipped, tmp_path):
    first = write_figures(clipped, tmp_path / "a")
    second = write_figures(clipped, tmp_path / "b")
    names = [f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")]
    assert [f.name for f in first] == [*names, "tolls.tex", "tolls.md"]
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
    for file in first:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG")
    svg = first[0].read_text()
    assert "Asian-Pac-Islander" in svg
    assert "n = 1,515" in svg


@pytest.mark.slow
def test_pdf_is_written_on_request_and_no_old_one_stays(clipped, tmp_path):
    asked = {f.name for f in write_figures(clipped, tmp_path, pdf=True)}
    assert {f"{name}.pdf" for name in FIGURES} < asked
    for name in FIGURES:
        content = (tmp_path / f"{name}.pdf").read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/Font" in content  # text stays text
    write_figures(clipped, tmp_path)
    assert not list(tmp_path.glob("*.pdf"))


@pytest.mark.slow
def test_a_figure_that_can_no_longer_be_drawn_is_removed(clipped, tmp_path):
    write_figures(clipped, tmp_path)
    unknown = replace(clipped, rounds=clipped.rounds.assign(effective_noise=float("nan")))
    left = {f.name for f in write_figures(unknown, tmp_path)}
    assert {f.name for f in tmp_path.iterdir()} == left
    assert "noise.png" not in left


@pytest.mark.slow
def test_hostile_names_do_not_break_the_figures(hostile, tmp_path):
    files = {f.name: f for f in write_figures(hostile, tmp_path)}
    drawn = files["utility.svg"].read_text()
    assert "<script" not in drawn
    assert "<b>" not in drawn
    assert "&lt;img src=x onerror=alert(2)&gt;" in drawn


def test_the_latex_table_holds_the_tolls(eight):
    text = latex(eight)
    row = eight.tight.query("strategy == 'fedavg' and group == 'Black'").iloc[0]
    told = rf"{row['toll']:.3f} ({row['toll_low']:.3f} to {row['toll_high']:.3f}) \\"
    assert re.search(rf"^Black & 4,685 & .* & {re.escape(told)}$", text, re.MULTILINE)
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body[0] == r"\begin{tabular}{lrrrr}"
    assert [line for line in body if line.startswith("\\") and "multicolumn" not in line][1:] == [
        r"\toprule",
        r"\midrule",
        r"\midrule",
        r"\midrule",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert "Asian{-}Pac{-}Islander" in text


@pytest.mark.slow
def test_hostile_names_are_no_commands_in_latex(disguised):
    text = latex(disguised)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[$#_^~]", body)
    assert not re.search(r"(?<!\\)%", body)
    assert r"\input" not in body
    assert set(re.findall(r"\\([a-zA-Z]+)", body)) <= {
        "begin",
        "end",
        "toprule",
        "midrule",
        "bottomrule",
        "multicolumn",
        "ensuremath",
        "varepsilon",
        "infty",
        "pm",
        "textbackslash",
        "textless",
        "textgreater",
        "textbar",
        "texttt",
        "char",
        "textquotesingle",
        "textasciitilde",
        "textasciicircum",
        "textasciigrave",
    }
    rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}
    assert not [line for line in body.splitlines() if line.lstrip().startswith(("[", "*"))]


def test_hostile_names_are_no_markup_in_markdown(disguised):
    text = markdown(disguised)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}
    assert not re.search(r"[<>]", text)
    assert "&lt;img src=x onerror=alert(2)&gt;" in text


def test_control_characters_become_spaces():
    assert tex("a\nb\u2028c\x1b") == "a b c "
    assert md("a\nb\u2028c\x1b") == "a b c "

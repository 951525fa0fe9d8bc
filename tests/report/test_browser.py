"""The page in a real browser: it draws every chart, requests nothing, and its controls work."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path

import pandas as pd
import pytest

from fedtoll.report import write
from fedtoll.report.digest import Digest
from tests.report.browser import CHROMIUM, Browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]

CHARTS = 10
FAULTS = (Path(__file__).parent / "accessibility.js").read_text(encoding="utf-8")
"""Returns what is not accessible on a page, in words."""
SHOWN = "getComputedStyle(document.querySelector('#vg-tooltip-element')).visibility === 'visible'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def file(clipped, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    write(clipped, file)
    return file


@pytest.fixture
def desktop(browser, file):
    browser.logged.clear()
    browser.requested.clear()
    browser.open(file, 1280, 900)
    yield browser
    assert browser.logged == []
    assert [a for a in browser.requested if not a.startswith(("file:", "data:", "blob:"))] == []


def widths(browser):
    return browser.run("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")


def test_every_chart_is_drawn_without_errors(desktop):
    assert desktop.run("document.querySelectorAll('.chart svg').length") == CHARTS
    assert desktop.run("[...document.querySelectorAll('.chart svg')].every(s => s.clientHeight > 100)")
    scroll, client = widths(desktop)
    assert scroll == client


def test_hostile_names_run_nothing(browser, evil, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(evil, encoding="utf-8")
    browser.logged.clear()
    browser.requested.clear()
    browser.open(file, 1280, 900)
    assert browser.logged == []
    assert [a for a in browser.requested if not a.startswith(("file:", "data:"))] == []
    assert browser.run("document.querySelectorAll('.chart svg').length") == CHARTS


def test_the_first_screen_says_who_pays_how_much_and_how_sure(desktop, clipped):
    digest = Digest(clipped)
    bottom = desktop.run("document.querySelector('#who-pays svg').getBoundingClientRect().bottom")
    assert bottom <= 900  # without scrolling
    drawn = desktop.run(
        "[...document.querySelectorAll('#who-pays svg text')].map(t => t.textContent).join('|')"
    )
    worst = digest.tight.query("strategy == 'fedavg' and group == 'Asian-Pac-Islander'").iloc[0]
    assert f"{worst['toll']:.3f}  ({worst['toll_low']:.3f} to {worst['toll_high']:.3f})" in drawn
    assert "n = 1,515" in drawn
    assert desktop.run("document.querySelector('.lead').getBoundingClientRect().bottom") < bottom


@pytest.mark.parametrize(
    ("chart", "mark", "tooltip"),
    [
        ("who-pays", "point", r"95% over seeds\s*0\.\d{3} to 0\.\d{3}.*n\s*1,515"),
        ("others", "point", r"95% over seeds\s*0\.\d{3} to .*n\s*48,835"),
        ("split", "rect", r"95% interval.* to .*n\s*1,515"),
        ("utility-log_loss", "point", r"95% interval\s*0\.\d{3} to .*n\s*[\d,]+"),
        ("front", "point", r"toll gap\s*\d\.\d{3}.*95% interval.*n\s*48,835"),
        ("weights", "line", r"share\s*[\d.]+%.*95% interval"),
        ("noise", "line", r"noise\s*\d\.\d+e-\d+.*95% interval"),
        ("partition", "rect", r"group.*n, records\s*[\d,]+"),
    ],
)
def test_tooltips_show_n_and_interval(desktop, chart, mark, tooltip):
    where = desktop.run(
        f"""(() => {{
            const chart = document.getElementById('{chart}');
            chart.scrollIntoView({{block: 'center'}});
            const marks = [...chart.querySelectorAll('g.mark-symbol, g.mark-rect, g.mark-line')]
                .filter(g => g.classList.contains('role-mark') || g.closest('.role-mark, .role-scope'))
                .filter(g => !g.closest('.role-legend, .role-axis'))
                .flatMap(g => [...g.querySelectorAll('path')])
                .filter(p => p.__data__ && p.__data__.datum);
            const kind = {{point: 'mark-symbol', rect: 'mark-rect', line: 'mark-line'}}['{mark}'];
            const ours = marks.filter(p => p.parentNode.classList.contains(kind));
            const path = '{chart}' === 'others' ? ours.at(-1) : ours[0]; // rings come first
            if ('{mark}' === 'line') {{
                const at = path.getPointAtLength(path.getTotalLength() / 2);
                const p = new DOMPoint(at.x, at.y).matrixTransform(path.getScreenCTM());
                return [p.x, p.y];
            }}
            const box = path.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
    )
    desktop.point_at(*where)
    desktop.until(lambda: desktop.run(f"!!document.querySelector('#vg-tooltip-element') && {SHOWN}"), 10)
    text = desktop.run("document.querySelector('#vg-tooltip-element').innerText")
    assert re.search(tooltip, text, re.DOTALL), text


def test_a_click_sorts_and_the_third_restores_the_order(desktop):
    column = "[...document.querySelectorAll('#table-tolls tbody tr')].map(r => r.cells[4].dataset.key)"
    head = "document.querySelectorAll('#table-tolls thead th')[4]"
    first = desktop.run(column)
    orders = []
    for sort in ("descending", "ascending", None):
        desktop.run(f"{head}.querySelector('button').click()")
        assert desktop.run(f"{head}.getAttribute('aria-sort')") == sort
        orders.append(desktop.run(column))
    numbers = [float(v) for v in first]
    assert [float(v) for v in orders[0]] == sorted(numbers, reverse=True)
    assert [float(v) for v in orders[1]] == sorted(numbers)
    assert orders[2] == first
    assert "in its original order" in desktop.run("document.getElementById('status').textContent")


def test_the_keyboard_sorts(desktop):
    desktop.run("document.querySelector('#table-tolls thead button').focus()")
    desktop.press("Enter")
    assert (
        desktop.run("document.querySelector('#table-tolls thead th').getAttribute('aria-sort')")
        == "ascending"
    )
    names = desktop.run("[...document.querySelectorAll('#table-tolls tbody th')].map(h => h.textContent)")
    assert names == sorted(names, key=str.casefold)
    desktop.press("Tab")
    focused = "document.activeElement.closest('th') === document.querySelectorAll('#table-tolls thead th')[1]"
    assert desktop.run(focused)


def test_undefined_stays_last_in_both_directions(desktop):
    column = "[...document.querySelectorAll('#table-gaps tbody tr')].map(r => r.cells[3].dataset.key)"
    for _ in range(2):
        desktop.run("document.querySelectorAll('#table-gaps thead button')[3].click()")
        keys = desktop.run(column)
        known = [k for k in keys if k]
        assert 0 < len(known) < len(keys)
        assert keys[: len(known)] == known


def test_a_table_is_downloaded_without_a_request(desktop):
    desktop.run("document.querySelector('[data-csv=csv-tolls]').click()")
    saved = desktop.downloads / "adult-race-tolls.csv"
    desktop.until(saved.exists, 20)
    frame = pd.read_csv(io.StringIO(saved.read_text(encoding="utf-8")))
    assert {"measure", "group", "toll", "toll_low", "population_low", "clipping"} <= set(frame.columns)
    assert len(frame) == 4 * 4 * 3 * 6


def test_a_phone_scrolls_in_one_direction_only(browser, file):
    browser.logged.clear()
    browser.open(file, 360, 800)
    scroll, client = widths(browser)
    assert scroll == client == 360
    assert browser.run(
        "[...document.querySelectorAll('.chart')].every(c => c.scrollWidth <= c.clientWidth + 1)"
    )
    # Charts get a narrow layout; they are not just scaled down.
    scales = browser.run(
        """[...document.querySelectorAll('.chart svg')].map(s =>
            s.getBoundingClientRect().width / Number(s.getAttribute('width')))"""
    )
    assert min(scales) > 0.93
    drawn = browser.run("document.querySelector('#who-pays svg').textContent")
    assert "Asian-Pac-Islander, n = 1,515: 0." in drawn
    assert browser.logged == []
    browser.resize(1280, 900)
    browser.wait_for_charts()
    assert widths(browser) == [1280, 1280]


def test_in_print_all_is_open_without_buttons_and_charts_fit(desktop):
    desktop.call("Emulation.setEmulatedMedia", media="print")
    desktop.run("window.dispatchEvent(new Event('beforeprint'))")
    assert desktop.run("document.querySelectorAll('details:not([open])').length") == 0
    assert desktop.run("[...document.querySelectorAll('.tools, nav')].every(e => !e.offsetHeight)")
    wide = "[...document.querySelectorAll('.chart svg')].map(s => Number(s.getAttribute('width')))"
    desktop.until(lambda: max(desktop.run(wide)) <= 700, 20)
    desktop.call("Emulation.setEmulatedMedia", media="")
    desktop.run("window.dispatchEvent(new Event('afterprint'))")
    assert desktop.run("document.querySelectorAll('details:not([open])').length") > 0
    desktop.wait_for_charts()
    assert desktop.print().startswith(b"%PDF")


def scheme(browser, mode):
    features = [{"name": "prefers-color-scheme", "value": mode}] if mode else []
    browser.call("Emulation.setEmulatedMedia", media="", features=features)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_page_is_accessible(browser, file, width, mode):
    scheme(browser, mode)
    try:
        browser.open(file, width, 900)
        browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert browser.run(FAULTS) == []
        ink, page = browser.run(
            "['color', 'backgroundColor'].map("
            "p => getComputedStyle(document.body)[p].match(/\\d+/g).map(Number))"
        )
        assert (sum(ink) > sum(page)) == (mode == "dark")
    finally:
        scheme(browser, "")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("document.querySelector('.note').style.color = '#bbb'", "contrast"),
        ("document.querySelector('.chart').removeAttribute('aria-label')", "no name"),
        ("document.querySelector('.chart').setAttribute('role', 'graphics-document')", "no name of its own"),
        ("document.querySelector('th').removeAttribute('scope')", "no scope"),
        ("document.querySelector('nav a').href = '#nowhere'", "leads nowhere"),
        ("document.querySelector('h2').id = 'tolls'", "id twice"),
        ("document.querySelector('.scroll').setAttribute('role', 'rigeon')", "unknown role"),
    ],
)
def test_the_check_of_accessibility_finds_faults(browser, file, change, fault):
    browser.open(file, 1280, 900)
    assert browser.run(FAULTS) == []  # so that the fault is that of the change
    browser.run(f"{change}; 0")
    assert any(fault in found for found in browser.run(FAULTS))


def test_a_drawn_chart_keeps_its_text_for_screen_readers(desktop, file):
    written = re.findall(r'role="img" aria-label="([^"]+)"', file.read_text(encoding="utf-8"))
    kept = desktop.run("[...document.querySelectorAll('.chart')].map(c => c.getAttribute('aria-label'))")
    assert kept == [html.unescape(label) for label in written]
    assert len(kept) == CHARTS


def test_navigation_stays_and_wide_tables_say_that_they_scroll(browser, file):
    browser.open(file, 390, 844)
    browser.run("document.getElementById('tolls').scrollIntoView()")
    assert browser.run("document.querySelector('nav').getBoundingClientRect().top") == 0
    assert browser.run(
        "document.getElementById('tolls').getBoundingClientRect().top"
        " >= document.querySelector('nav').getBoundingClientRect().bottom"
    )
    assert browser.run(
        """[...document.querySelectorAll('.scroll')].filter(r => r.checkVisibility()).every(r =>
            (r.scrollWidth > r.clientWidth + 1) === r.previousElementSibling.checkVisibility())"""
    )
    # The first column stays where it is when the table scrolls.
    assert browser.run(
        """(() => {
            const cell = document.querySelector('#table-tolls tbody th'), region = cell.closest('.scroll');
            const before = cell.getBoundingClientRect().left;
            region.scrollLeft = 300;
            return region.scrollLeft > 100 && cell.getBoundingClientRect().left === before;
        })()"""
    )

"""Vega's process: it works beside this one, draws what it is given and reads no address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedtoll.scenarios.errors import RunError
from fedtoll.server.report import vega

SPEC = {
    "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
    "data": {"values": [{"x": 1, "name": "a < b"}]},
    "mark": "bar",
    "encoding": {"x": {"field": "x", "type": "quantitative"}, "y": {"field": "name", "type": "nominal"}},
}


def test_a_chart_is_drawn_as_svg_and_png():
    svg, png = vega.draw(SPEC).result()
    assert svg.startswith("<svg")
    assert "a &lt; b" in svg
    assert png.startswith(b"\x89PNG")


def test_a_script_is_bundled_with_vega_once():
    bundled = vega.bundle("window.mark = vega.version")
    assert "window.mark" in bundled.result()
    assert len(bundled.result()) > 500_000
    assert vega.bundle("window.mark = vega.version") is bundled


def test_this_process_works_meanwhile():
    vega.draw(SPEC).result()
    drawing = vega.draw(SPEC)
    turns = 0
    while not drawing.done():
        time.sleep(0)
        turns += 1
    assert turns > 20


def test_what_cannot_be_drawn_is_an_error_and_the_next_is_drawn():
    with pytest.raises(ValueError, match=r"\S"):
        vega.draw({"mark": {"type": "nonsense"}}).result()
    assert vega.draw(SPEC).result()[1]


def test_no_address_is_read():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/rows.json"
        drawing = vega.draw(SPEC | {"data": {"url": url}})
        drawing.exception()
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_process_that_dies_is_told_and_begun_anew():
    vega.draw(SPEC).result()
    vega._process(os.getpid())._beside.kill()
    with pytest.raises(RunError, match="died"):
        vega.draw(SPEC).result()
    assert vega.draw(SPEC).result()[1]


def test_it_ends_with_its_parent_however_that_ends():
    program = (
        "import os; from fedtoll.server.report import vega; vega.draw({}).exception(); "
        "print(vega._process(os.getpid())._beside.pid, flush=True); os._exit(0)"
    )
    child = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    for _ in range(100):
        if not _lives(child):
            return
        time.sleep(0.1)
    raise AssertionError("it outlived its parent")


def _lives(pid: int) -> bool:
    """Say whether a process runs: one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False

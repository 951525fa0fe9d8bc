"""Parse a page into its elements and their text."""

from __future__ import annotations

import base64
import gzip
import json
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The elements of a page in order, each with tag, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "text": ""}
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [e for e in self.elements if e["tag"] == tag]

    def classed(self, name: str) -> list[dict[str, Any]]:
        return [e for e in self.elements if name in (e["attrs"].get("class") or "").split()]

    @property
    def specs(self) -> dict[str, Any]:
        """The specifications of the charts by their element's id."""
        scripts = [e for e in self.all("script") if e["attrs"].get("type") == "application/json"]
        specs = {e["attrs"]["id"]: json.loads(e["text"]) for e in scripts}
        for spec in specs.values():
            for name, data in spec["datasets"].items():
                spec["datasets"][name] = [dict(zip(data["fields"], r, strict=True)) for r in data["rows"]]
        return specs

    @property
    def csv(self) -> dict[str, str]:
        """The CSV files of the tables by the table's name."""
        scripts = [e for e in self.all("script") if e["attrs"].get("type") == "application/gzip"]
        return {
            e["attrs"]["id"].removeprefix("csv-"): gzip.decompress(base64.b64decode(e["text"])).decode()
            for e in scripts
        }

    @property
    def code(self) -> list[str]:
        return [e["text"] for e in self.all("script") if "type" not in e["attrs"]]

    @property
    def card(self) -> dict[str, str]:
        """The definition lists by term; the first definition of a term wins."""
        terms, texts = [e["text"] for e in self.all("dt")], [e["text"] for e in self.all("dd")]
        return dict(reversed(list(zip(terms, texts, strict=True))))

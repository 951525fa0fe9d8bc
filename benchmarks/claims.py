"""Performance claims, computed from the measurements. Ratios are computed for each repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.compare import GROUP
from benchmarks.measure import spread
from benchmarks.scaling import exponent
from benchmarks.work import SWEEP


@dataclass(frozen=True)
class Claim:
    """One row of the table: quantity, required value, measured value, and whether the claim holds."""

    what: str
    needed: str
    measured: str
    holds: bool


def sweeps(whole: dict[str, Any]) -> dict[str, list[float]]:
    """Return the seconds of the sweep by variant and repetition, extrapolated from a run or a piece."""
    once = {"a": whole.get("start_up", 0.0)}
    found = {key: [once.get(key, 0.0) + SWEEP * s for s in v] for key, v in whole["seconds"].items()}
    if whole["pieces"]:
        found["e"] = [p["total"] - p["train"] + SWEEP * p["train"] / p["runs"] for p in whole["pieces"]]
    return found


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Return the spread of slow / fast over repetitions.

    Examples
    --------
    >>> ratios([10.0, 30.0, 20.0], [1.0, 2.0, 1.0])["median"]
    15.0
    """
    return spread([a / b for a, b in zip(slow, fast, strict=False)])


def claims(results: dict[str, Any]) -> list[Claim]:
    """Return every claim that has measurements."""
    found = []
    if "whole" in results:
        seconds = sweeps(results["whole"])
        if "a" in seconds and results.get("whole_sweep"):
            whole = results["whole_sweep"]["total"]
            ratio = spread([a / whole for a in seconds["a"]])
            found.append(_times("the whole sweep on all cores (e) over Flower + Ray + Opacus (a)", 60, ratio))
        if {"a", "e"} <= seconds.keys():
            ratio = ratios(seconds["a"], seconds["e"])
            found.append(_times("a piece of the sweep (e) over Flower + Ray + Opacus (a)", 45, ratio))
        if {"b", "d"} <= seconds.keys():
            ratio = ratios(seconds["b"], seconds["d"])
            found.append(_times("a whole run (d) over sequential Opacus (b), same core", 15, ratio))
    alone = results.get("training", {})
    if {"b", "d"} <= alone.keys():
        found.append(
            _times(
                "training alone (d) over sequential Opacus (b), same core", 15, ratios(alone["b"], alone["d"])
            )
        )
    if {"d", "f"} <= alone.keys():
        found.append(_within("training alone (d) over the limit (f)", 2.5, ratios(alone["d"], alone["f"])))
    if {"g", "h"} <= alone.keys():
        what = f"training {GROUP} runs in step (g) over their limit (h)"
        found.append(_within(what, 1.5, ratios(alone["g"], alone["h"])))
    if "whole" in results and "d" in results["whole"]["seconds"]:
        found.append(_around(results["whole"]))
    parts = results.get("scaling", {}), results.get("large", {})
    return found + _scaling(parts[0]) + _large(parts[1]) + _resume(results.get("resume"))


def _times(what: str, needed: float, ratio: dict[str, float]) -> Claim:
    text = f"{ratio['median']:.1f} × ({ratio['low']:.1f} to {ratio['high']:.1f})"
    return Claim(what, f"{needed:g} × or more", text, ratio["median"] >= needed)


def _within(what: str, most: float, ratio: dict[str, float]) -> Claim:
    text = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return Claim(what, f"{most:g} or less", text, ratio["median"] <= most)


def _around(whole: dict[str, Any]) -> Claim:
    """Return the share of a run's time that is not training."""
    shares = [1 - t / s for t, s in zip(whole["training"]["d"], whole["seconds"]["d"], strict=True)]
    share = spread(shares)
    text = f"{share['median']:.0%} ({share['low']:.0%} to {share['high']:.0%})"
    return Claim("share of a run (d) outside its training", "under 30%", text, share["median"] < 0.3)


def _scaling(scaling: dict[str, Any]) -> list[Claim]:
    if not scaling:
        return []
    found = []
    for series, what in (("clients", "the engine alone"), ("app", "the whole app")):
        peak = [p["peak_mb"] for p in scaling[series] if p["clients"] == 2_000]
        if peak:
            what = f"peak memory of a round of 2,000 clients, {what}"
            found.append(Claim(what, "under 2 GB", f"{peak[0] / 1e3:.2f} GB", peak[0] < 2_000))
    for series, size in (("rows", "rows"), ("clients", "clients")):
        points = scaling[series]
        power = exponent([p[size] for p in points], [p["seconds"]["median"] for p in points])
        what = f"seconds per round ~ {size}^b"
        found.append(Claim(what, "b of 1.1 or less", f"b = {power:.2f}", power <= 1.1))
    return found


def _large(large: dict[str, Any]) -> list[Claim]:
    if not large:
        return []
    found = []
    for series, size, limits in (
        ("clients", 20_000, (20, 4)),
        ("clients", 100_000, (90, 4)),
        ("records", 1_000_000, (20, 3)),
    ):
        for p in large[series]:
            if p[series] == size:
                text = f"{p['plan']:.1f} s, {p['plan_mb'] / 1e3:.2f} GB"
                needed = f"under {limits[0]} s, {limits[1]} GB"
                holds = p["plan"] < limits[0] and p["plan_mb"] < 1e3 * limits[1]
                found.append(Claim(f"planning a run of {size:,} {series}", needed, text, holds))
    points = large["records"]
    if len(points) > 1:
        power = exponent([p["records"] for p in points], [p["round"] for p in points])
        text = f"b = {power:.2f}"
        found.append(
            Claim("seconds per round ~ records^b, to a million", "b of 1.1 or less", text, power <= 1.1)
        )
    group = large["in_step"]
    what = f"peak memory of {group['runs']} runs of {group['clients']:,} clients in step"
    found.append(Claim(what, "under 3 GB", f"{group['peak_mb'] / 1e3:.2f} GB", group["peak_mb"] < 3_000))
    begun = spread(large["start"])
    text = f"{begun['median']:.2f} s ({begun['low']:.2f} to {begun['high']:.2f})"
    found.append(Claim("start of `fedtoll run`: imports", "under 2.5 s", text, begun["median"] < 2.5))
    return found


def _resume(resume: dict[str, Any] | None) -> list[Claim]:
    if not resume:
        return []
    kinds = ("lost", "duplicated", "torn", "different", "failed")
    text = ", ".join(f"{resume[kind]} {kind}" for kind in kinds)
    what = f"{resume['kills']} × SIGKILL, each followed by a resume"
    return [Claim(what, "0 of each", text, not any(resume[kind] for kind in kinds))]

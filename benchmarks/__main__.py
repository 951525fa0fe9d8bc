"""The command line: ``python -m benchmarks`` measures everything and writes ``RESULTS.md``.

A full measurement takes between half an hour and an hour and a half on two idle cores. Heavy imports are
inside the functions, because worker processes import this module again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

KEYS = ("a", "b", "c", "d", "e", "f", "scaling", "large", "resume")


def main() -> None:
    """Measure the parts that the command line selects, and write the tables."""
    options = _arguments()
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; children inherit it
    from benchmarks import report

    if options.training_again:
        here = Path(__file__).parent
        results = training_again(json.loads((here / "results.json").read_text(encoding="utf-8")))
        _write(results, here)
        return
    results = measure_all(options.only, quick=options.quick)
    page = report.markdown(results)
    print(page)
    folder = options.out
    if folder is None and not options.quick and set(options.only) == set(KEYS):
        folder = Path(__file__).parent
    if folder is None:
        _tell("nothing written: only a full measurement, or --out, writes RESULTS.md and results.json")
        return
    _write(results, folder)


def _write(results: dict[str, Any], folder: Path) -> None:
    from benchmarks import report

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RESULTS.md").write_text(report.markdown(results), encoding="utf-8")
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    (folder / "results.json").write_text(text, encoding="utf-8")


def training_again(results: dict[str, Any]) -> dict[str, Any]:
    """Replace the training-alone part of earlier results; store its earlier ratio to the limit."""
    from benchmarks import claims, compare, measure, work

    again = {
        "commit": measure.machine()["commit"],
        "load": measure.load(),
        "before": claims.ratios(results["training"]["d"], results["training"]["f"]),
    }
    return {**results, "training": compare.training_alone("bdf", work.FULL, _tell), "again": again}


def measure_all(only: list[str], *, quick: bool) -> dict[str, Any]:
    """Measure the parts in ``only``, and return the numbers for JSON."""
    from benchmarks import compare, large, measure, resume, scaling, work

    size = work.QUICK if quick else work.FULL
    results: dict[str, Any] = {
        "quick": quick,
        "size": asdict(size),
        "machine": measure.machine(),
        "load": {"start": measure.load()},
    }
    if set("abcde") & set(only):
        results["whole"] = compare.whole_runs(only, size, _tell)
    if set("bdf") & set(only):
        results["training"] = compare.training_alone(only, size, _tell)
    if "e" in only and size.whole_sweep:
        results["whole_sweep"] = compare.whole_sweep(size, _tell)
    if "scaling" in only:
        _tell("scaling")
        results["scaling"] = scaling.measure_all(quick)
    if "large" in only:
        _tell("large work")
        results["large"] = large.measure_all(quick)
    if "resume" in only:
        _tell(f"{size.kills} kills")
        with tempfile.TemporaryDirectory(prefix="bench-resume-") as folder:
            results["resume"] = resume.check(size.kills, Path(folder))
    results["load"]["end"] = measure.load()
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure speed and scale, side by side."
    )
    parser.add_argument(
        "--only", type=_keys, default=list(KEYS), metavar="A,B", help=f"some of {', '.join(KEYS)}"
    )
    parser.add_argument("--quick", action="store_true", help="smoke test of a few minutes; decides nothing")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write to this folder instead of benchmarks/")
    parser.add_argument(
        "--training-again",
        action="store_true",
        help="repeat only the part training alone of the stored results; the page says so",
    )
    return parser.parse_args()


def _keys(text: str) -> list[str]:
    keys = [key.strip() for key in text.split(",")]
    if unknown := [key for key in keys if key not in KEYS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(KEYS)}")
    return keys


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

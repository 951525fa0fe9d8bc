"""Traps, and files that are not what their name says."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

DEEP = 10_000
ESCAPE = "\x1b[2J\x1b]0;owned\x07"


class Trap:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.makedirs, (str(self.mark),))


def bytes_of(case: str, mark: Path) -> bytes:
    """Files that are not what their name says."""
    trap = pickle.dumps(Trap(mark))
    made = io.BytesIO()
    if case == "pickle":
        return trap
    if case == "npz":
        np.savez(made, x=np.array([Trap(mark)], dtype=object))
    elif case == "npy":
        np.save(made, np.array([Trap(mark)], dtype=object), allow_pickle=True)
    elif case == "torch":
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("archive/data.pkl", trap)
            archive.writestr("archive/version", "3\n")
    elif case == "parquet of an extension type":
        field = pa.field(
            "y",
            pa.string(),
            metadata={
                b"ARROW:extension:name": b"arrow.py_extension_type",
                b"ARROW:extension:metadata": trap,
            },
        )
        table = pa.table([pa.array(["a", "b"])], schema=pa.schema([field]))
        parquet.write_table(table, made)
    elif case == "parquet with pandas' word":
        table = pa.table({"y": ["a"]}).replace_schema_metadata({b"pandas": b"[" * DEEP})
        parquet.write_table(table, made)
    elif case == "text":
        return b"PAR1" + b"x" * 100 + b"PAR1"
    return made.getvalue()


KINDS = (
    *("pickle", "npz", "npy", "torch", "parquet of an extension type", "parquet with pandas' word"),
    *("text", "empty"),
)


def state(folder: Path) -> dict[str, Any]:
    """All that lies in a folder: links by their target, files by their bytes."""
    return {
        str(p.relative_to(folder)): p.readlink() if p.is_symlink() else p.read_bytes() if p.is_file() else 0
        for p in sorted(folder.rglob("*"))
    }


def _content(path: Path) -> Any:
    if path.is_symlink():
        return path.readlink()
    return path.read_bytes() if path.is_file() else None

"""Traps, and files whose content does not match their name."""

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
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.makedirs, (str(self.mark),))


def bytes_of(case: str, mark: Path) -> bytes:
    """Return the bytes of a file whose content does not match its name."""
    trap = pickle.dumps(Trap(mark))
    buffer = io.BytesIO()
    if case == "pickle":
        return trap
    if case == "npz":
        np.savez(buffer, x=np.array([Trap(mark)], dtype=object))
    elif case == "npy":
        np.save(buffer, np.array([Trap(mark)], dtype=object), allow_pickle=True)
    elif case == "torch":
        with zipfile.ZipFile(buffer, "w") as archive:
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
        parquet.write_table(table, buffer)
    elif case == "parquet with pandas' word":
        table = pa.table({"y": ["a"]}).replace_schema_metadata({b"pandas": b"[" * DEEP})
        parquet.write_table(table, buffer)
    elif case == "text":
        return b"PAR1" + b"x" * 100 + b"PAR1"
    return buffer.getvalue()


KINDS = (
    *("pickle", "npz", "npy", "torch", "parquet of an extension type", "parquet with pandas' word"),
    *("text", "empty"),
)


def state(folder: Path) -> dict[str, Any]:
    """Return the content of a folder by path: links by target, files by bytes."""
    return {
        str(p.relative_to(folder)): p.readlink() if p.is_symlink() else p.read_bytes() if p.is_file() else 0
        for p in sorted(folder.rglob("*"))
    }

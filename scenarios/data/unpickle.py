"""Read a pickled frame in a separate process, because unpickling runs code."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fedtoll.scenarios.errors import ScenarioError

if TYPE_CHECKING:
    import pandas as pd

_SCRIPT = """
import sys
import pandas as pd
frame = pd.read_pickle(sys.argv[1], compression=sys.argv[2])
frame[sys.argv[4:]].to_parquet(sys.argv[3], index=False)
"""


def unpickled(file: Path, columns: tuple[str, ...], compression: str = "xz") -> pd.DataFrame:
    """Return some columns of a pickled frame, from an archive whose hash was checked.

    Raises
    ------
    ScenarioError
        In one line, if the file is missing or not a frame with these columns.
    """
    import pandas as pd

    with tempfile.TemporaryDirectory(prefix="fedtoll-") as folder:
        parquet = Path(folder) / "frame.parquet"
        command = [sys.executable, "-P", "-c", _SCRIPT, str(file), compression, str(parquet), *columns]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no error message"])[-1]
            raise ScenarioError(f"{file.name}: cannot be read as a pickled frame: {reason}")
        return pd.read_parquet(parquet)

"""How often fedtoll fails a check: every seed, system and engine, where no check should fail.

python -m tests.gate.alarms [FIRST SEED] [LAST SEED]
"""

from __future__ import annotations

import sys

import torch

from tests.gate import table
from tests.gate.mutants import BOTH
from tests.gate.parts import MANY, runs_on
from tests.gate.system import CHECKS, System


def main() -> None:
    """Print every alarm, and their number."""
    first, last = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (1, 20)
    torch.set_num_threads(1)
    count = dict.fromkeys(CHECKS, 0)
    for seed in range(first, last + 1):
        for engine in BOTH:
            for name in (c for c in CHECKS if runs_on(c, engine)):
                at = seed if MANY.owns(name) else 2 * seed  # the other systems know even seeds only
                if message := table.alarm(name, System(engine, seed=at)):
                    count[name] += 1
                    print(f"seed {at}, {engine}: {name}: {message}", flush=True)  # noqa: T201
        print(f"seed {seed}: {sum(count.values())} alarms so far", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()

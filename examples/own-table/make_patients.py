"""Write patients.csv: 3,000 synthetic hospital patients. No record describes a real person."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path

COLUMNS = ["age", "days", "earlier_stays", "diagnosis", "sex", "region", "hospital", "readmitted"]
HOSPITALS = {  # share of each hospital's patients by region
    "City": {"urban": 0.8, "suburban": 0.2, "rural": 0.0},
    "Park": {"urban": 0.2, "suburban": 0.8, "rural": 0.0},
    "Valley": {"urban": 0.0, "suburban": 0.2, "rural": 0.8},
}
SIZES = {"City": 1500, "Park": 1200, "Valley": 300}
RISK = {"heart": 0.6, "lungs": 0.3, "diabetes": 0.0, "injury": -0.9}  # change of the log-odds


def patient(hospital: str, rng: random.Random) -> list[object]:
    """Return one row. Rural patients are readmitted more often, and age matters less for them."""
    regions = HOSPITALS[hospital]
    (region,) = rng.choices(list(regions), list(regions.values()))
    age = min(max(round(rng.gauss(60, 15)), 18), 99)
    days = min(1 + int(rng.expovariate(1 / 5)), 60)
    stays = min(int(rng.expovariate(1 / 1.5)), 20)
    diagnosis = rng.choice(list(RISK))
    sex = rng.choice(["female", "male"])
    base, by_age = (0.0, 0.2) if region == "rural" else (-1.9, 0.8)
    log_odds = base + by_age * (age - 60) / 15 + 0.05 * days + 0.4 * stays + RISK[diagnosis]
    readmitted = rng.random() < 1 / (1 + math.exp(-log_odds))
    return [age, days, stays, diagnosis, sex, region, hospital, "yes" if readmitted else "no"]


def main() -> None:
    """Write the file next to this script; the same bytes every time."""
    rng = random.Random(2024)
    rows = [patient(hospital, rng) for hospital, size in SIZES.items() for _ in range(size)]
    rng.shuffle(rows)
    with (Path(__file__).parent / "patients.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()

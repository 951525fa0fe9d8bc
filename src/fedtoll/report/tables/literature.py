"""The tolls in the words of two papers, and the slopes over ε: for those who compare with them."""

from __future__ import annotations

from fedtoll.formatting import named
from fedtoll.report.digest import CELL, Digest
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Row, Table
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll import folds_of, literature, slopes

_SLOPE = ["slope", "slope_low", "slope_high"]


def literature_table(digest: Digest) -> Table | None:
    """Return privacy cost and excessive risk at the tightest ε; ``None`` if no run is private."""
    frame = literature(digest.results, digest.tolls)
    frame = frame[(frame["mechanism"] == "dp-sgd") & (frame["epsilon"] == digest.epsilon)]
    if frame.empty:
        return None
    slope = slopes(digest.results.groups, "log_loss", folds_of(digest.results.resolved))
    of = {(row["strategy"], row["group"]): row for _, row in slope.iterrows()}
    rows = []
    for _, row in frame.iterrows():
        slope_of = [of[row["strategy"], row["group"]][c] for c in _SLOPE]
        cells = (
            t.text(named(row["group"], digest.attribute)),
            t.text(row["strategy"]),
            t.counted(row["n"], row["positives"]),
            t.mean(row["privacy_cost"], row["privacy_cost_se"]),
            t.mean(row["excessive_risk"], row["excessive_risk_se"]),
            t.figure(row["fairness_gap"]),
            t.figure(slope_of[0]),
            t.within(*slope_of[1:]),
        )
        rows.append(Row(cells, bool(row["too_few"]), row["group"] == EVERYBODY))
    columns = (
        *t.words("Group", "Strategy"),
        *t.numbers("n" if digest.several_classes else "n (positives)"),
        *t.numbers("Privacy cost ± s.e.", "Excessive risk ± s.e.", "Fairness gap"),
        *t.numbers("Slope over ln ε", "95% interval of the slope"),
    )
    frame = frame.merge(slope[["strategy", "group", *_SLOPE]], "left", on=["strategy", "group"])
    frame = frame[[*CELL, *(c for c in frame.columns if c not in CELL)]]
    note = (
        "Privacy cost is the toll in accuracy (Esipova et al. 2023); excessive risk is the toll in log-loss, "
        "and the fairness gap its distance from everybody’s (Tran et al. 2021). The papers measure on "
        "training records of a central model, this page on held-out ones. The slope of the utility (minus "
        "log-loss) over ln ε is of all ε together, taken seed by seed and then averaged."
    )
    caption = f"Privacy cost and excessive risk at ε = {digest.epsilon_text}, and slopes"
    return Table("literature", caption, columns, tuple(rows), t.csv(frame), note)

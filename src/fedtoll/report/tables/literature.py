"""The tolls as two papers define them, and the slopes over ε, for comparison with the literature."""

from __future__ import annotations

from fedtoll.formatting import group_label
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
    slope_of = {(row["strategy"], row["group"]): row[_SLOPE] for _, row in slope.iterrows()}
    rows = []
    for _, row in frame.iterrows():
        value, low, high = slope_of[row["strategy"], row["group"]]
        cells = (
            t.text_cell(group_label(row["group"], digest.attribute)),
            t.text_cell(row["strategy"]),
            t.n_cell(row["n"], row["positives"]),
            *(
                t.estimate_cell(row[name], row[f"{name}_low"], row[f"{name}_high"])
                for name in ("privacy_cost", "excessive_risk")
            ),
            t.number_cell(row["fairness_gap"]),
            t.number_cell(value),
            t.interval_cell(low, high),
        )
        rows.append(Row(cells, bool(row["too_few"]), row["group"] == EVERYBODY))
    columns = (
        *t.text_columns("Group", "Strategy"),
        *t.number_columns("n" if digest.several_classes else "n (positives)"),
        *t.number_columns("Privacy cost (95% interval)", "Excessive risk (95% interval)", "Fairness gap"),
        *t.number_columns("Slope over ln ε", "95% interval of the slope"),
    )
    frame = frame.merge(slope[["strategy", "group", *_SLOPE]], "left", on=["strategy", "group"])
    frame = frame[[*CELL, *(c for c in frame.columns if c not in CELL)]]
    note = (
        "Privacy cost is the toll in accuracy (Esipova et al. 2023); excessive risk is the toll in log-loss, "
        "and the fairness gap its distance from everybody’s (Tran et al. 2021). The papers measure on "
        "the training records of a central model, this page on held-out records. The slope of the utility "
        "(minus log-loss) over ln ε is fitted to all finite ε for each seed, and then averaged."
    )
    caption = f"Privacy cost and excessive risk at ε = {digest.epsilon_text}, and slopes"
    return Table("literature", caption, columns, tuple(rows), t.csv(frame), note)

"""The report's charts as Vega-Lite specifications, the same for the page and the figures.

:mod:`~fedtoll.report.charts.tolls` shows who pays, and what clipping and noise take; ``utility`` the utility
at each ε; ``front`` fairness against utility; ``federation`` weights, partition and noise. ``style`` has what
they share.
"""

from fedtoll.report.charts.charts import Charts
from fedtoll.report.charts.federation import effective_noise, partition, weights
from fedtoll.report.charts.front import front
from fedtoll.report.charts.style import Spec, stacked
from fedtoll.report.charts.tolls import others, split, who_pays, who_pays_narrow
from fedtoll.report.charts.utility import utility

__all__ = [
    "Charts",
    "Spec",
    "effective_noise",
    "front",
    "others",
    "partition",
    "split",
    "stacked",
    "utility",
    "weights",
    "who_pays",
    "who_pays_narrow",
]

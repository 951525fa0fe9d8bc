"""The report's charts as Vega-Lite specifications: the same for the page and for the figures.

One file a question: :mod:`~fedtoll.server.report.charts.tolls` (who pays, and by what),
``utility`` (over ε), ``front`` (fairness against utility) and ``federation`` (weights, partition,
noise); ``style`` has what they share.
"""

from fedtoll.server.report.charts.charts import Charts
from fedtoll.server.report.charts.federation import effective_noise, partition, weights
from fedtoll.server.report.charts.front import front
from fedtoll.server.report.charts.style import Spec, stacked
from fedtoll.server.report.charts.tolls import others, split, who_pays, who_pays_narrow
from fedtoll.server.report.charts.utility import utility

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

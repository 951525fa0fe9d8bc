"""What did privacy cost each group? Paired tolls, prices, gaps, their intervals and tests.

A *toll* is ΔU_g(ε) = U_g(∞) − U_g(ε), the utility that group g loses to
privacy under one strategy and one seed. Both runs of a pair share their
split, partition, initial weights and random streams, so the difference is
paired.

===============================  ==================================================================
:func:`toll`                     tolls, prices and their split into clipping and noise, by group
:func:`results_toll`             the same for a results folder
:func:`toll_gap`                 which groups pay most and least, disparity, the Pareto front of strategies
:func:`comparisons`              tests of the strategies against the baseline, as the scenario declares them
:func:`joint_intervals`          intervals for the population, over seeds and test rows together
:func:`slopes`                   slope of utility over log ε
:func:`fairness`                 demographic parity and equalised odds, by fairlearn's definitions
:func:`literature`               privacy cost (Esipova et al.) and excessive risk (Tran et al.)
:func:`difference`               differences between the tolls of two results folders
:func:`ambiguous_labels`          labels that name different strategies in two results folders
:func:`wilson`                   the interval of a rate in a single run
===============================  ==================================================================

Two rules hold throughout. An undefined measure (a rate whose denominator is 0)
stays NaN: its pair is dropped and counted, never treated as 0. And no claim is
made about a group with fewer than :data:`FEWEST_RECORDS` test records or
:data:`FEWEST_OF_CLASS` of its rarer class.

Examples
--------
>>> import numpy as np, pandas as pd
>>> groups = pd.DataFrame({
...     "strategy": "fedavg", "mechanism": ["none", "dp-sgd"] * 2, "epsilon": [np.inf, 1.0] * 2,
...     "seed": [0, 0, 1, 1], "round": 30, "group": "Black", "n": 900, "positives": 110,
...     "log_loss": [0.20, 0.30, 0.22, 0.34], "collapsed": False, "below_majority": False,
... })
>>> toll(groups).query("mechanism == 'dp-sgd'")[["group", "n", "seeds", "toll"]].round(2).to_dict("records")
[{'group': 'Black', 'n': 1800, 'seeds': 2, 'toll': 0.11}]
"""

from fedtoll.scenarios.measures import EVERYBODY, MEASURES, RUN, Measure
from fedtoll.toll.comparisons import comparisons
from fedtoll.toll.fairness import fairness
from fedtoll.toll.gap import toll_gap
from fedtoll.toll.intervals import sign_flip, wilson
from fedtoll.toll.joint import joint_intervals
from fedtoll.toll.limits import (
    FEW_SEEDS,
    FEWEST_OF_CLASS,
    FEWEST_RECORDS,
    LEVEL,
    ResultsLike,
    folds_of,
    price_reference,
)
from fedtoll.toll.literature import literature
from fedtoll.toll.slopes import slopes
from fedtoll.toll.tolls import results_toll, toll
from fedtoll.toll.two_folders import ambiguous_labels, difference, settings

__all__ = [
    "EVERYBODY",
    "FEWEST_OF_CLASS",
    "FEWEST_RECORDS",
    "FEW_SEEDS",
    "LEVEL",
    "MEASURES",
    "RUN",
    "Measure",
    "ResultsLike",
    "ambiguous_labels",
    "comparisons",
    "difference",
    "fairness",
    "folds_of",
    "joint_intervals",
    "literature",
    "price_reference",
    "results_toll",
    "settings",
    "sign_flip",
    "slopes",
    "toll",
    "toll_gap",
    "wilson",
]

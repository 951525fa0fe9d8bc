"""The report's tables as rows of text: every number of a group with its n and positives beside it.

``table`` has what a table is; ``toll``, ``gap``, ``compared``, ``federation`` and ``account`` one kind each.
"""

from fedtoll.report.tables.account import runs_table, spent_by_client, spent_table
from fedtoll.report.tables.compared import comparison_table
from fedtoll.report.tables.federation import client_table, group_table
from fedtoll.report.tables.gap import disparity_table, gap_table
from fedtoll.report.tables.literature import literature_table
from fedtoll.report.tables.table import Cell, Column, Row, Table
from fedtoll.report.tables.toll import toll_table, utility_table

__all__ = [
    "Cell",
    "Column",
    "Row",
    "Table",
    "client_table",
    "comparison_table",
    "disparity_table",
    "gap_table",
    "group_table",
    "literature_table",
    "runs_table",
    "spent_by_client",
    "spent_table",
    "toll_table",
    "utility_table",
]

"""The report's tables: every number of a group comes with the group's n and positives.

``table`` defines what a table is, and its cells; each other module builds the tables of one topic.
"""

from fedtoll.report.tables.account import runs_table, spent_by_client, spent_table
from fedtoll.report.tables.compared import comparison_table
from fedtoll.report.tables.federation import client_table, group_table, participation_table
from fedtoll.report.tables.gap import disparity_table, gap_table
from fedtoll.report.tables.literature import literature_table
from fedtoll.report.tables.sensitivity import recipe_table, sensitivity_table, sensitivity_text
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
    "participation_table",
    "recipe_table",
    "runs_table",
    "sensitivity_table",
    "sensitivity_text",
    "spent_by_client",
    "spent_table",
    "toll_table",
    "utility_table",
]

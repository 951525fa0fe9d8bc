"""What a person reads: the page, the figures, the table in the terminal, and the headline of all three."""

from fedtoll.server.report.headline import headline
from fedtoll.server.report.page import write, write_figures
from fedtoll.server.report.terminal import toll_table

__all__ = ["headline", "toll_table", "write", "write_figures"]

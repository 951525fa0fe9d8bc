"""What does a person read? The page, the figures, the summary in the terminal, and their headline."""

from fedtoll.report.digest import Digest
from fedtoll.report.figures import write_figures
from fedtoll.report.folder import warm_up, write_report
from fedtoll.report.headline import headline
from fedtoll.report.page import write
from fedtoll.report.terminal import terminal_summary

__all__ = ["Digest", "headline", "terminal_summary", "warm_up", "write", "write_figures", "write_report"]

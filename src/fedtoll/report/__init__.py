"""What does a person read? The page, the figures, the first screen in the terminal, and their headline."""

from fedtoll.report.digest import Digest
from fedtoll.report.figures import write_figures
from fedtoll.report.folder import begin, write_report
from fedtoll.report.headline import headline
from fedtoll.report.page import write
from fedtoll.report.terminal import story

__all__ = ["Digest", "begin", "headline", "story", "write", "write_figures", "write_report"]

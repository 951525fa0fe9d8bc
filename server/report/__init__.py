"""What a person reads: the page, the figures, the screen in the terminal, and the headline of all three."""

from fedtoll.server.report.digest import Digest
from fedtoll.server.report.figures import write_figures
from fedtoll.server.report.folder import begin, write_report
from fedtoll.server.report.headline import headline
from fedtoll.server.report.page import write
from fedtoll.server.report.terminal import story

__all__ = ["Digest", "begin", "headline", "story", "write", "write_figures", "write_report"]

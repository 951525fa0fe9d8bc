"""What was published, and does it hold? A finding is run in its settings, and its claims are judged.

``prepare`` plans and checks, ``run`` trains and resumes. ``reductions`` trains fairness reductions and
``baselines`` other private mechanisms, both with ``models``. ``quantities`` reduces
results to one number per seed, paired as in the toll. ``contrasts`` turns claims into contrasts, and
``verdicts`` judges them with the toll's tests. ``survival`` compares the verdicts of tuned and blind settings
with the others, and ``summary`` combines the verdicts of each claim. ``front`` charts accuracy, disparity and
ε, and ``page`` writes the page, with numbers in ``units``.
"""

from fedtoll.findings.page import write
from fedtoll.findings.prepare import check_unique, prepare, resolve_names
from fedtoll.findings.run import Finding, check_versions, run_finding
from fedtoll.findings.summary import report_not_held
from fedtoll.findings.verdicts import VERDICTS, Outcome

__all__ = [
    "VERDICTS",
    "Finding",
    "Outcome",
    "check_unique",
    "check_versions",
    "prepare",
    "report_not_held",
    "resolve_names",
    "run_finding",
    "write",
]

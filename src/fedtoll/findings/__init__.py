"""What was published, and does it hold? A finding is run in its settings, and its claims are judged.

``prepare`` plans and checks; ``run`` runs and resumes; ``quantities`` turns results into one number per seed,
with the toll's own pairing; ``contrasts`` turns claims into contrasts; ``verdicts`` judges them with the
toll's own tests; ``tune`` chooses the constants anew at every ε; ``survival`` says which verdicts outlive
that; ``summary`` joins the verdicts of one claim; ``front`` draws accuracy, disparity and ε; ``page`` writes
what a reviewer reads, with figures in ``units``.
"""

from fedtoll.findings.page import write
from fedtoll.findings.prepare import apart, names, prepare
from fedtoll.findings.run import Finding, run_finding
from fedtoll.findings.summary import did_not_hold
from fedtoll.findings.verdicts import VERDICTS, Outcome

__all__ = [
    "VERDICTS",
    "Finding",
    "Outcome",
    "apart",
    "did_not_hold",
    "names",
    "prepare",
    "run_finding",
    "write",
]

"""Published results, checked: a finding is run in its settings, its claims are judged, a page says what held.

``asked`` plans and checks; ``conduct`` runs and resumes; ``quantities`` turns results into one number a seed,
with the toll's own pairing; ``cases`` turns claims into contrasts; ``verdicts`` judges them with the toll's
own tests; ``tune`` chooses constants anew at every ε, to refute; ``survival`` says what outlives that;
``standing`` puts a claim's verdicts together; ``front`` draws accuracy, disparity and ε; ``page`` writes what
a reviewer reads, figures in ``units``.
"""

from fedtoll.server.findings.asked import apart, names, prepare
from fedtoll.server.findings.conduct import Finding, conduct
from fedtoll.server.findings.page import write
from fedtoll.server.findings.standing import did_not_hold
from fedtoll.server.findings.verdicts import VERDICTS, Outcome

__all__ = ["VERDICTS", "Finding", "Outcome", "apart", "conduct", "did_not_hold", "names", "prepare", "write"]

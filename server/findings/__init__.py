"""Published results, checked: a finding is run in its settings, its claims are judged, a page says what held.

``quantities`` turns results into one number a seed, with the toll's own pairing; ``cases`` turns claims into
contrasts; ``verdicts`` judges them with the toll's own tests; ``conduct`` runs and resumes; ``tune`` chooses
constants anew at every ε, to refute; ``survival`` says what outlives that; ``front`` draws accuracy,
disparity and ε; ``page`` writes what a reviewer reads.
"""

from fedtoll.server.findings.conduct import Finding, conduct, names, prepare
from fedtoll.server.findings.page import write
from fedtoll.server.findings.survival import did_not_hold
from fedtoll.server.findings.verdicts import VERDICTS, Outcome

__all__ = ["VERDICTS", "Finding", "Outcome", "conduct", "did_not_hold", "names", "prepare", "write"]

"""Published results, checked: a finding is run in its settings, its claims are judged, a page says what held.

``quantities`` turns results into one number a seed, with the toll's own pairing; ``cases`` turns claims into
contrasts; ``verdicts`` judges them with the toll's own tests; ``conduct`` runs and resumes; ``tune`` chooses
constants anew at every ε, to refute; ``page`` writes what a reviewer reads.
"""

from fedtoll.server.findings.conduct import Finding, conduct, names, prepare
from fedtoll.server.findings.page import write
from fedtoll.server.findings.verdicts import VERDICTS, Outcome

__all__ = ["VERDICTS", "Finding", "Outcome", "conduct", "names", "prepare", "write"]

"""The status of each claim over all of its settings: held, held in part, or did not hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fedtoll.findings.verdicts import VERDICTS, Outcome, Verdict
from fedtoll.formatting import listed

Status = Literal["contradicted", "not shown", "held in part", "held", "undecided"]
STATUSES: tuple[Status, ...] = ("held", "held in part", "not shown", "contradicted", "undecided")
NOT_HELD: tuple[Status, ...] = ("contradicted", "not shown", "held in part")
"""The statuses of claims that failed in at least one setting, worst first."""


@dataclass(frozen=True)
class ClaimSummary:
    """One claim and its verdicts.

    Parameters
    ----------
    finding, claim, says
        The names of the finding and the claim, and the claim in words.
    published
        What the source says; empty if the claim is our own.
    outcomes
        One outcome per setting, in the order of the file.
    """

    finding: str
    claim: str
    says: str
    published: str
    outcomes: tuple[Outcome, ...]

    @property
    def status(self) -> Status:
        """The status: ``contradicted`` in at least one setting, ``not shown`` if reproduced in none."""
        verdicts = {o.verdict for o in self.outcomes}
        if "contradicted" in verdicts:
            return "contradicted"
        if "reproduced" not in verdicts:
            return "not shown" if "not reproduced" in verdicts else "undecided"
        return "held in part" if "not reproduced" in verdicts else "held"

    @property
    def worst(self) -> Outcome:
        """The outcome behind the status: the first with the worst verdict, preferably with an interval."""
        order = ("contradicted", "not reproduced", "undecided", "reproduced")
        return min(self.outcomes, key=lambda o: (order.index(o.verdict), math.isnan(o.low)))

    @property
    def settings(self) -> dict[Verdict, list[str]]:
        """The settings by verdict; verdicts without settings are left out."""
        by_verdict = {v: [o.setting for o in self.outcomes if o.verdict == v] for v in VERDICTS}
        return {verdict: settings for verdict, settings in by_verdict.items() if settings}

    @property
    def where(self) -> str:
        """The verdicts with their settings in words, the worst first."""
        order: tuple[Verdict, ...] = ("contradicted", "not reproduced", "undecided", "reproduced")
        over = self.outcomes[0].region.rpartition(" over ")[2]
        if len(self.outcomes) == 1 and self.outcomes[0].setting in over.split(", "):  # a curve over settings
            return f"{self.outcomes[0].verdict} over {over}"
        return "; ".join(f"{v} in {listed(names)}" for v in order if (names := self.settings.get(v, [])))


def by_claim(outcomes: Iterable[tuple[str, Outcome]]) -> list[ClaimSummary]:
    """Group outcomes by claim, in their order.

    Parameters
    ----------
    outcomes
        Pairs of a finding's name and an outcome.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for finding, o in outcomes:
        groups.setdefault((finding, o.claim), []).append(o)
    return [
        ClaimSummary(finding, claim, group[0].says, group[0].published, tuple(group))
        for (finding, claim), group in groups.items()
    ]


def not_held(claims: Sequence[ClaimSummary]) -> list[ClaimSummary]:
    """Return the claims that failed in at least one setting, worst status first."""
    return sorted((c for c in claims if c.status in NOT_HELD), key=lambda c: NOT_HELD.index(c.status))


def count_sentence(claims: Sequence[ClaimSummary], singular: str, plural: str) -> str:
    """Return a sentence with the number of claims of every status; empty without claims.

    Parameters
    ----------
    claims
        The claims to count.
    singular, plural
        What to call one of them, and several.

    Examples
    --------
    >>> count_sentence([], "published claim", "published claims")
    ''
    """
    if not claims:
        return ""
    phrases: dict[Status, str] = {
        "held": "held wherever decided",
        "held in part": "held in some settings",
        "not shown": "could not be shown in any",
        "contradicted": "were contradicted in at least one setting",
        "undecided": "could not be decided",
    }
    counts = {status: sum(c.status == status for c in claims) for status in STATUSES}
    if counts["contradicted"] == 1:
        phrases["contradicted"] = "was contradicted in at least one setting"
    parts = listed(f"{counts[s]} {phrases[s]}" for s in STATUSES if counts[s])
    return f"Of {len(claims)} {singular if len(claims) == 1 else plural}, {parts}."


def by_source(claims: Sequence[ClaimSummary]) -> tuple[list[ClaimSummary], list[ClaimSummary]]:
    """Return the published claims and our own."""
    return [c for c in claims if c.published], [c for c in claims if not c.published]


def headlines(claims: Sequence[ClaimSummary]) -> list[str]:
    """Return a sentence on the published claims and one on our own, each only if there are any."""
    published, own = by_source(claims)
    sentences = [
        count_sentence(published, "published claim", "published claims"),
        count_sentence(own, "claim of our own", "claims of our own"),
    ]
    return [sentence for sentence in sentences if sentence]


def report_not_held(outcomes: Iterable[tuple[str, Outcome]]) -> str:
    """Return the closing lines of the terminal: which claims did not hold, published ones first.

    Parameters
    ----------
    outcomes
        Pairs of a finding's name and an outcome.
    """
    claims = by_claim(outcomes)
    if all(c.status == "undecided" for c in claims):
        return "No claim could be decided."
    failed = not_held(claims)
    if not failed:
        return "Every claim that could be decided held."
    lines = headlines(claims)
    for heading, group in zip(("Published claims", "Our own claims"), by_source(failed), strict=True):
        lines += [f"{heading} that did not hold here:"] * bool(group)
        lines += [f"- {c.says} ({c.finding}): {c.where}" for c in group]
    return "\n".join(lines)

"""What became of each claim over all settings in which it is asked: it held, in part, or it did not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fedtoll.findings.verdicts import VERDICTS, Outcome, Word
from fedtoll.formatting import listed

Standing = Literal["contradicted", "not shown", "held in part", "held", "undecided"]
STANDINGS: tuple[Standing, ...] = ("held", "held in part", "not shown", "contradicted", "undecided")
FELL: tuple[Standing, ...] = ("contradicted", "not shown", "held in part")
"""Those that did not hold in one setting or more, worst first."""


@dataclass(frozen=True)
class Told:
    """One claim and its verdicts.

    Parameters
    ----------
    finding, claim, says, published
        Which, and what the source has; ``published`` is empty where the claim is ours.
    outcomes
        One a setting, in the order of the file.
    """

    finding: str
    claim: str
    says: str
    published: str
    outcomes: tuple[Outcome, ...]

    @property
    def standing(self) -> Standing:
        """One word: ``contradicted`` in one setting or more; ``not shown``: reproduced in none."""
        words = {o.verdict for o in self.outcomes}
        if "contradicted" in words:
            return "contradicted"
        if "reproduced" not in words:
            return "not shown" if "not reproduced" in words else "undecided"
        return "held in part" if "not reproduced" in words else "held"

    @property
    def worst(self) -> Outcome:
        """The outcome that the standing rests on: the first of its worst verdict, one with an interval."""
        order = ("contradicted", "not reproduced", "undecided", "reproduced")
        return min(self.outcomes, key=lambda o: (order.index(o.verdict), math.isnan(o.low)))

    @property
    def settings(self) -> dict[Word, list[str]]:
        """The settings by verdict, without those verdicts that it has not."""
        by = {word: [o.setting for o in self.outcomes if o.verdict == word] for word in VERDICTS}
        return {word: settings for word, settings in by.items() if settings}

    @property
    def where(self) -> str:
        """In words, which verdict it has in which settings; what did not hold comes first."""
        order: tuple[Word, ...] = ("contradicted", "not reproduced", "undecided", "reproduced")
        over = self.outcomes[0].region.rpartition(" over ")[2]
        if len(self.outcomes) == 1 and self.outcomes[0].setting in over.split(", "):  # steps are settings
            return f"{self.outcomes[0].verdict} over {over}"
        told = [f"{word} in {listed(by)}" for word in order if (by := self.settings.get(word, []))]
        return "; ".join(told)


def claims(outcomes: Iterable[tuple[str, Outcome]]) -> list[Told]:
    """Return the claims behind outcomes, in their order.

    Parameters
    ----------
    outcomes
        Each with its finding's name.
    """
    by: dict[tuple[str, str], list[Outcome]] = {}
    for finding, o in outcomes:
        by.setdefault((finding, o.claim), []).append(o)
    return [
        Told(finding, claim, own[0].says, own[0].published, tuple(own))
        for (finding, claim), own in by.items()
    ]


def fallen(told: Sequence[Told]) -> list[Told]:
    """Return those that did not hold in one setting or more: contradicted, not shown, held in part."""
    return sorted((t for t in told if t.standing in FELL), key=lambda t: FELL.index(t.standing))


def counted(told: Sequence[Told], one: str, more: str) -> str:
    """Say how many claims hold, and in how many settings.

    Parameters
    ----------
    told
        Of one kind.
    one, more
        What to call one of them, and several.

    Examples
    --------
    >>> counted([], "published claim", "published claims")
    ''
    """
    if not told:
        return ""
    words: dict[Standing, str] = {
        "held": "held wherever decided",
        "held in part": "held in some settings",
        "not shown": "could not be shown in any",
        "contradicted": "were contradicted in one setting or more",
        "undecided": "could not be decided",
    }
    counts = {s: sum(t.standing == s for t in told) for s in STANDINGS}
    if counts["contradicted"] == 1:
        words["contradicted"] = "was contradicted in one setting or more"
    parts = listed(f"{counts[s]} {words[s]}" for s in STANDINGS if counts[s])
    return f"Of {len(told)} {one if len(told) == 1 else more}, {parts}."


def by_source(told: Sequence[Told]) -> tuple[list[Told], list[Told]]:
    """Return the published claims, and ours."""
    return [t for t in told if t.published], [t for t in told if not t.published]


def leads(told: Sequence[Told]) -> list[str]:
    """Return a sentence on the published claims and one on ours; none of a kind that is not there."""
    theirs, ours = by_source(told)
    made = [
        counted(theirs, "published claim", "published claims"),
        counted(ours, "claim of ours", "claims of ours"),
    ]
    return [sentence for sentence in made if sentence]


def did_not_hold(outcomes: Iterable[tuple[str, Outcome]]) -> str:
    """Say in a few lines which claims did not hold, published ones first: what the terminal shows last.

    Parameters
    ----------
    outcomes
        Each with its finding's name.
    """
    told = claims(outcomes)
    if all(t.standing == "undecided" for t in told):
        return "No claim could be decided."
    down = fallen(told)
    if not down:
        return "Every claim that could be decided held."
    lines = leads(told)
    for whose, own in zip(("Published claims", "Claims of ours"), by_source(down), strict=True):
        lines += [f"{whose} that did not hold here:"] * bool(own)
        lines += [f"- {t.says} ({t.finding}): {t.where}" for t in own]
    return "\n".join(lines)

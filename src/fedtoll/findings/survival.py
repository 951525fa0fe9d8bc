"""Whether a finding survives tuning, and leaving the sensitive attributes out of the features.

A claim tested in such a variant is compared with its verdict in the variant's *twin*: the setting that
differs from it only by that change. The finding survives if every claim that is ``reproduced`` in the twin is
also reproduced in the variant. It does not if one is contradicted there. A claim that is merely not
reproduced there could not be shown and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fedtoll.findings.verdicts import Outcome
from fedtoll.formatting import listed
from fedtoll.scenarios.claims import BASE, Setting

Answer = Literal["yes", "no", "undecided (not shown with it)", "undecided", "nothing to survive", "not asked"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)

FAILED = ("contradicted", "not reproduced")
_EXCLUDE = "data.exclude="
_SAME = {
    "tuning": "tuning chose the same constants, so the runs are the same",
    "blind": "the runs are the same",
}


@dataclass(frozen=True)
class Survival:
    """Whether the claims of a finding survive one change, and why.

    Parameters
    ----------
    question
        The change: ``tuning`` or ``blind``.
    answer
        One of :data:`ANSWERS`.
    why
        In words: how many claims held, and which did not.
    kept, held
        How many claims held with the change, of the ``held`` claims that held without it.
    """

    question: Literal["tuning", "blind"]
    answer: Answer
    why: str
    kept: int = 0
    held: int = 0

    @property
    def text(self) -> str:
        """The question, in words."""
        return {
            "tuning": "survives tuning",
            "blind": "survives leaving the sensitive attributes out of the features",
        }[self.question]


def same_runs(a: Outcome, b: Outcome) -> bool:
    """Return whether two settings' outcomes come from the same runs."""
    return bool(a.runs) and a.runs == b.runs


def survival(settings: Sequence[Setting], outcomes: Sequence[Outcome]) -> tuple[Survival, Survival]:
    """Return whether one finding survives tuning, and whether it survives blind features.

    Parameters
    ----------
    settings
        The settings of its scenario.
    outcomes
        The outcomes of its claims.
    """
    tuned = {s.name: twin(s, settings) for s in settings if s.tuned}
    blind = {
        s.name: twin(s, settings)
        for s in settings
        if not s.tuned and any(override.startswith(_EXCLUDE) for override in s.set)
    }
    return _answer("tuning", tuned, outcomes), _answer("blind", blind, outcomes)


def twin(variant: Setting, settings: Sequence[Setting]) -> str | None:
    """Return the setting that differs from a variant only by its tuning or exclusion; None if there is none.

    Examples
    --------
    >>> few = Setting(name="few", title="few", set=("partition.keep={Female=0.1}",))
    >>> blind = Setting(name="few-blind", title="blind", set=(*few.set, 'data.exclude=["sex"]'))
    >>> twin(blind, [few, blind]), twin(Setting(name="tuned", title="tuned", tuned=True), [few, blind])
    ('few', 'base')
    """
    rest = {o for o in variant.set if variant.tuned or not o.startswith(_EXCLUDE)}
    if not rest:
        return BASE
    return next((s.name for s in settings if s is not variant and not s.tuned and set(s.set) == rest), None)


def _answer(
    question: Literal["tuning", "blind"], twins: dict[str, str | None], outcomes: Iterable[Outcome]
) -> Survival:
    outcome = {(o.claim, o.setting): o for o in outcomes}
    both = {
        (claim, setting): (outcome[claim, twin_name].verdict, o.verdict)
        for (claim, setting), o in outcome.items()
        if (twin_name := twins.get(setting)) is not None and (claim, twin_name) in outcome
    }
    if not both:
        return Survival(question, "not asked", "no claim is tested both with it and without it")
    same = [(c, s) for c, s in both if same_runs(outcome[c, s], outcome[c, twins[s] or ""])]
    pairs = {key: verdicts for key, verdicts in both.items() if key not in same}
    if not pairs:
        return Survival(question, "undecided", _SAME[question])
    tested = f"of {len(pairs)} tested both ways"
    held = {key: after for key, (before, after) in pairs.items() if before == "reproduced"}
    new = [c for (c, _), (before, after) in pairs.items() if before in FAILED and after == "reproduced"]
    rest = ""
    if new:
        rest += f"; {listed(new)} did not hold without it but {'do' if len(new) > 1 else 'does'} with it"
    if same:
        rest += f"; for {len(same)} more, {_SAME[question]}"
    if not held:
        undecided = sum(before == "undecided" for before, _ in pairs.values())
        if undecided:
            return Survival(question, "undecided", f"{tested}, {undecided} undecided without it{rest}")
        return Survival(question, "nothing to survive", f"{tested}, none held without it{rest}")
    kept = sum(after == "reproduced" for after in held.values())
    contradicted = [claim for (claim, _), after in held.items() if after == "contradicted"]
    not_shown = [claim for (claim, _), after in held.items() if after == "not reproduced"]
    why = f"{tested}, {len(held)} held without it and {kept} of these with it"
    if contradicted:
        why += f"; contradicted with it: {listed(contradicted)}"
    if not_shown:
        why += f"; not shown with it: {listed(not_shown)}"
    answer: Answer = "undecided (not shown with it)" if not_shown else "undecided"
    if contradicted:
        answer = "no"
    elif kept == len(held):
        answer = "yes"
    return Survival(question, answer, why + rest, kept, len(held))

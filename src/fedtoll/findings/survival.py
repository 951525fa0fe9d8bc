"""Whether a finding survives tuning, and leaving the sensitive attributes out of the features.

A claim that is asked in such a variant is compared with its own verdict in the variant's *twin*: the setting
that differs from it by that alone. Of the claims that are ``reproduced`` in the twin, all must be so in the
variant for the finding to survive. It does not when one is contradicted there; one that is only not
reproduced there could not be shown, and decides nothing.
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

FELL = ("contradicted", "not reproduced")
_EXCLUDE = "data.exclude="


@dataclass(frozen=True)
class Survival:
    """Whether the claims of a finding outlive one change, and how that was told.

    Parameters
    ----------
    question
        ``tuning`` or ``blind``.
    answer
        One of :data:`ANSWERS`.
    why
        In words: how many claims held, and which fell.
    kept, held
        How many claims hold with it, of those that hold without it.
    """

    question: Literal["tuning", "blind"]
    answer: Answer
    why: str
    kept: int = 0
    held: int = 0

    @property
    def asks(self) -> str:
        """The question in words."""
        return {
            "tuning": "survives tuning",
            "blind": "survives leaving the sensitive attributes out of the features",
        }[self.question]


def same_runs(one: Outcome, other: Outcome) -> bool:
    """Whether two settings' outcomes are of the same runs: their figures are so, to the last bit."""
    a, b = ([o.mean, *(mean for _, mean in o.sides)] for o in (one, other))
    return len(a) > 1 and a == b and one.seeds == other.seeds


def survival(settings: Sequence[Setting], outcomes: Sequence[Outcome]) -> tuple[Survival, Survival]:
    """Return both answers for one finding.

    Parameters
    ----------
    settings
        Of its scenario.
    outcomes
        Its verdicts.
    """
    tuned = {s.name: twin(s, settings) for s in settings if s.tuned}
    blind = {
        s.name: twin(s, settings)
        for s in settings
        if not s.tuned and any(override.startswith(_EXCLUDE) for override in s.set)
    }
    return _answer("tuning", tuned, outcomes), _answer("blind", blind, outcomes)


def twin(variant: Setting, settings: Sequence[Setting]) -> str | None:
    """Return the setting that differs from a variant by its tuning or its exclusion alone; None without one.

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
    by = {(o.claim, o.setting): o for o in outcomes}
    verdicts = {key: o.verdict for key, o in by.items()}
    asked = {
        (claim, setting): (verdicts[claim, own], verdict)
        for (claim, setting), verdict in verdicts.items()
        if (own := twins.get(setting)) is not None and (claim, own) in verdicts
    }
    if not asked:
        return Survival(question, "not asked", "no claim is asked in a setting with it and in one without")
    same = [(c, s) for c, s in asked if same_runs(by[c, s], by[c, twins[s] or ""])]
    pairs = {key: both for key, both in asked.items() if key not in same}
    if not pairs:
        return Survival(question, "undecided", "it chose the same constants: the runs are the same")
    held = {key: after for key, (before, after) in pairs.items() if before == "reproduced"}
    alike = f"; in {len(same)} more it chose the same constants: the runs are the same" * bool(same)
    new = [claim for (claim, _), both in pairs.items() if both[0] in FELL and both[1] == "reproduced"]
    more = f"; {listed(new)} did not hold without it and {'do' if len(new) > 1 else 'does'} with it" * bool(
        new
    )
    if not held:
        open_ = sum(before == "undecided" for before, _ in pairs.values())
        if open_:
            return Survival(
                question,
                "undecided",
                f"of {len(pairs)} asked both ways, {open_} undecided without it{alike}",
            )
        return Survival(
            question,
            "nothing to survive",
            f"of {len(pairs)} asked both ways, none held without it{more}{alike}",
        )
    kept = sum(after == "reproduced" for after in held.values())
    fell = [claim for (claim, _), after in held.items() if after == "contradicted"]
    lost = [claim for (claim, _), after in held.items() if after == "not reproduced"]
    told = f"of {len(pairs)} asked both ways, {len(held)} held without it and {kept} of these with it"
    told += f"; contradicted with it: {listed(fell)}" * bool(fell)
    told += f"; not shown with it: {listed(lost)}" * bool(lost) + more + alike
    if fell:
        return Survival(question, "no", told, kept, len(held))
    unsure: Answer = "undecided (not shown with it)" if lost else "undecided"
    return Survival(question, "yes" if kept == len(held) else unsure, told, kept, len(held))

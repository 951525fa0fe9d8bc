"""What a published result says, so that it can be checked: its source, its settings and its claims.

A scenario with claims is a *finding*. Each claim is about numbers that every seed has (a toll, a
value, a share of the weight), and names the region in which their mean must lie for it to hold. The verdicts
are made by :mod:`fedtoll.findings`, from the paired statistics of the toll and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from fedtoll.scenarios.errors import nearest
from fedtoll.scenarios.fields import Epsilon, Positive, Section
from fedtoll.scenarios.measures import FLAGS, VALUED, MeasureName
from fedtoll.scenarios.numbers import read_number, write_number
from fedtoll.scenarios.reduction import Reduction
from fedtoll.scenarios.tune import Tune

BASE = "base"
"""The setting that is the scenario itself, without overrides."""

LEAST_SEEDS = 10
"""With fewer seeds nothing is decided."""

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Text = Annotated[str, Field(min_length=1)]
Of = Literal["toll", "price", "value", "spread", "weight"]
Kind = Literal["order", "ratio", "difference", "threshold", "shape", "correlation"]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Source(Section):
    """Where a finding was published, and what is not the same here.

    ``paper``: authors, year, title and venue; ``where`` in it; ``setting``: how it was measured there;
    ``differs``: what is otherwise here, and why; ``constants``: where the constants here are from;
    ``left_out``: what is not asked here, and why.
    """

    paper: Text
    where: Text
    setting: Text
    differs: Text
    constants: Text
    left_out: str = ""


class Setting(Section):
    """A variant of the scenario in which claims are asked too: overrides in the form of ``--set``.

    ``tuned``: the constants of ``[tune]`` are chosen anew at every ε first. ``reduction``: a grid of
    reweighted models is trained beside it.
    """

    name: Slug
    title: Text
    set: tuple[str, ...] = ()
    tuned: Annotated[bool, Field(strict=True)] = False
    reduction: Reduction | None = None

    @model_validator(mode="after")
    def _check(self) -> Setting:
        if self.name == BASE:
            raise ValueError(f"name = {BASE!r}: is the scenario itself")
        if self.tuned and self.reduction:
            raise ValueError("reduction: a setting is tuned or has a reduction")
        return self


class Term(Section):
    """What stands on one side of a claim; what is left out is the claim's own.

    ``groups``: the mean over these; none is everybody. For ``spread``, the groups that are compared.
    """

    groups: tuple[str, ...] = ()
    of: Of | None = None
    measure: MeasureName | None = None
    strategy: str | None = None
    epsilon: Epsilon | None = None
    setting: Slug | None = None


Step = Annotated[
    float | str,
    BeforeValidator(lambda v: float(v) if isinstance(v, int) else read_number(v)),
    PlainSerializer(write_number, when_used="json"),
]
"""An ε, or the name of a setting."""


class Claim(Section):
    """One sentence of a source, and the region of a seed-mean in which it holds.

    - ``order``: a is greater than b
    - ``difference``: a − b is ``at_least`` and ``at_most`` so much
    - ``threshold``: so is a alone
    - ``ratio``: so is a / b, where b is greater than 0
    - ``shape``: along ``over`` (values of ε, or settings), a (or a − b) ``rises`` or ``falls`` (from the
      first to the last, and at no step the other way), ``peaks`` (is greater at ``peak`` than at both ends),
      or is ``flat`` (everywhere within ``margin`` of the first)
    - ``correlation``: over the groups, Spearman's correlation of a with the trait ``along`` is ``at_least``
      and ``at_most`` so much; with ``given``, the partial one. Groups of too few records do not count;
      the groups shuffled must seldom give as much

    Parameters
    ----------
    name, says
        A short name, and the claim in words.
    of
        ``toll``, ``price``, ``value`` (the measure itself), ``spread`` (maximum minus minimum of the value
        over groups, run by run: biased upwards by noise), ``weight`` (the groups' summed share of the
        aggregation weight, mean over rounds).
    measure, strategy, epsilon
        Of what; the strategy by its label, by default the scenario's first.
    settings
        In which settings it is asked, ``base`` among them or not; each has a verdict of its own.
    a, b
        The two sides.
    along, given
        Of a correlation: how unlike the crowd a group is, or how many records it has; and what is held
        constant.
    published
        The source's figure or direction, as text; empty where the claim is ours.
    reason
        Why the bounds are what they are, where the source does not state them.
    """

    name: Slug
    says: Text
    kind: Kind
    of: Of = "toll"
    measure: MeasureName = "log_loss"
    strategy: str | None = None
    epsilon: Epsilon | None = None
    settings: Annotated[tuple[Slug, ...], Field(min_length=1)] = (BASE,)
    a: Term = Term()
    b: Term | None = None
    at_least: Finite | None = None
    at_most: Finite | None = None
    shape: Literal["rises", "falls", "peaks", "flat"] | None = None
    over: tuple[Step, ...] = ()
    peak: Step | None = None
    margin: Positive | None = None
    along: Literal["atypicality", "size"] | None = None
    given: Literal["size"] | None = None
    published: str = ""
    reason: str = ""

    @model_validator(mode="after")
    def _check(self) -> Claim:
        two = self.kind in {"order", "ratio", "difference"}
        if two != (self.b is not None) and self.kind != "shape":
            raise ValueError(f"b: kind = {self.kind!r} {'needs it' if two else 'has one side, a'}")
        bounded = self.kind in {"ratio", "difference", "threshold", "correlation"}
        stated = self.at_least is not None or self.at_most is not None
        if bounded != stated:
            need = "needs one of them" if bounded else "has none"
            raise ValueError(f"at_least, at_most: kind = {self.kind!r} {need}")
        if self.at_least is not None and self.at_most is not None and self.at_least >= self.at_most:
            raise ValueError("at_least must be less than at_most")
        if (self.kind == "shape") != (self.shape is not None):
            raise ValueError("shape: belongs to kind = 'shape', and that needs it")
        self._check_shape()
        self._check_correlation()
        for side in (self.a, self.b or self.a):
            if (side.measure or self.measure) in VALUED and (side.of or self.of) in {"toll", "price"}:
                raise ValueError(f"measure: {side.measure or self.measure!r} has no toll; use of = 'value'")
        for side in (self.a, self.b or self.a):
            if (side.of or self.of) == "spread" and len(side.groups) == 1:
                raise ValueError("groups: a 'spread' needs two groups or more, or none for all")
            if (flag := side.measure or self.measure) in FLAGS and (
                (side.of or self.of) != "value" or len(side.groups) > 1
            ):
                raise ValueError(f"measure: {flag!r} takes of = 'value', of one group or of everybody")
        return self

    def _check_shape(self) -> None:
        if (self.kind == "shape") != bool(self.over):
            raise ValueError("over: belongs to kind = 'shape', and that needs it")
        if self.over and (len(self.over) < 2 or len(set(self.over)) != len(self.over)):
            raise ValueError("over: needs two steps or more, each once")
        if len({isinstance(step, str) for step in self.over}) > 1:
            raise ValueError("over: holds values of ε and names of settings; give one kind")
        if (self.shape == "peaks") != (self.peak is not None):
            raise ValueError("peak: belongs to shape = 'peaks', and that needs it")
        if self.peak is not None and self.peak not in self.over[1:-1]:
            raise ValueError("peak: must stand between the first and the last of over")
        if (self.shape == "flat") != (self.margin is not None):
            raise ValueError("margin: belongs to shape = 'flat', and that needs it")

    def _check_correlation(self) -> None:
        if (self.kind == "correlation") != (self.along is not None):
            raise ValueError("along: belongs to kind = 'correlation', and that needs it")
        if self.given is not None and self.along != "atypicality":
            raise ValueError("given: 'size' belongs to along = 'atypicality'")
        if self.kind == "correlation" and (self.a.of or self.of) not in {"toll", "price", "value"}:
            raise ValueError("of: a correlation is of a 'toll', a 'price' or a 'value'")

    @property
    def parts(self) -> int:
        """In how many ways figures can contradict it: p is multiplied by that."""
        if self.kind == "ratio":
            return sum(bound is not None for bound in (self.at_least, self.at_most))
        if self.kind != "shape":
            return 1
        return 2 if self.shape == "peaks" else len(self.over) - 1

    def terms(self, setting: str) -> list[Term]:
        """Return the sides of the claim in a setting, every field filled in but a missing strategy.

        They are a, and b where there is one; of a shape, a at every step of ``over``, and then b.
        """
        filled = []
        for side in (self.a, self.b):
            if side is None:
                continue
            own = side.model_dump(exclude_none=True)
            usual = {
                "of": self.of,
                "measure": self.measure,
                "strategy": self.strategy,
                "epsilon": self.epsilon,
                "setting": setting,
            }
            filled.append(Term.model_validate({**usual, **own}))
        if self.kind != "shape":
            return filled
        key = "setting" if isinstance(self.over[0], str) else "epsilon"
        return [side.model_copy(update={key: step}) for side in filled for step in self.over]


def consistent(
    source: Source | None, settings: Sequence[Setting], claims: Sequence[Claim], tune: Tune | None
) -> None:
    """Refuse claims that name a setting which is not there, a name that stands twice, or no source.

    Raises
    ------
    ValueError
        One line, which names the claim.
    """
    if bool(claims) != (source is not None):
        raise ValueError("claim, source: one needs the other")
    if any(s.tuned for s in settings) and tune is None:
        raise ValueError("setting: tuned needs [tune]")
    for key, names in (("setting", [s.name for s in settings]), ("claim", [c.name for c in claims])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{key}: {twice[0]!r} stands twice")
    known = [BASE, *(s.name for s in settings)]
    for claim in claims:
        for setting in claim.settings:
            for name in (setting, *(t.setting for t in claim.terms(setting) if t.setting)):
                if name not in known:
                    raise ValueError(f"claim {claim.name!r}: no setting {name!r}{nearest(name, known)}")

"""A published result in a form that can be checked: its source, its settings and its claims.

A scenario with claims is a *finding*. A claim is about a number that every seed has (a toll, a value, a share
of the weight) and names the region in which the mean over seeds must lie for the claim to hold.
:mod:`fedtoll.findings` decides, from the paired statistics of the toll alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from fedtoll.scenarios.baseline import Baseline
from fedtoll.scenarios.errors import nearest
from fedtoll.scenarios.fields import Epsilon, Positive, Section, as_float, only_with, without_default
from fedtoll.scenarios.measures import FLAGS, VALUED, MeasureName
from fedtoll.scenarios.numbers import read_number, write_number
from fedtoll.scenarios.reduction import Reduction
from fedtoll.scenarios.tune import Tune

BASE = "base"
"""The name of the scenario itself as a setting, without overrides."""

LEAST_SEEDS = 10
"""With fewer seeds, no claim is decided."""

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Text = Annotated[str, Field(min_length=1)]
QuantityName = Literal["toll", "price", "value", "spread", "weight"]
Kind = Literal["order", "ratio", "difference", "threshold", "shape", "correlation"]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Source(Section):
    """Where a finding was published, and how this scenario differs.

    ``paper``: authors, year, title and venue; ``where``: the place in the paper; ``setting``: how the paper
    measured it; ``differs``: what differs here, and why; ``constants``: the origin of the constants here;
    ``left_out``: which of the paper's claims are not checked, and why.
    """

    paper: Text
    where: Text
    setting: Text
    differs: Text
    constants: Text
    left_out: str = ""


class Setting(Section):
    """A variant of the scenario in which claims are checked: overrides in the form of ``--set``.

    ``tuned``: the constants of ``[tune]`` are first chosen at every ε. ``reduction``: a grid of reweighted
    models is trained as well. ``baseline``: another private mechanism is trained as well.
    """

    name: Slug
    title: Text
    set: tuple[str, ...] = ()
    tuned: Annotated[bool, Field(strict=True)] = False
    reduction: Reduction | None = None
    baseline: Baseline | None = None

    @model_validator(mode="after")
    def _check(self) -> Setting:
        if self.name == BASE:
            raise ValueError(f"name = {BASE!r}: this name is reserved for the scenario itself")
        if self.tuned and self.reduction:
            raise ValueError("reduction: a setting cannot be tuned and have a reduction")
        if self.tuned and self.baseline:
            raise ValueError("baseline: a setting cannot be tuned and have a baseline")
        return self

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later keys that have their default, so that older results keep their bytes."""
        return without_default(handler(self), baseline=None)


class Term(Section):
    """One side of a claim; keys that are left out default to those of the claim.

    ``groups``: the groups to average over; without any, everybody. For ``spread``, the groups to compare.
    """

    groups: tuple[str, ...] = ()
    of: QuantityName | None = None
    measure: MeasureName | None = None
    strategy: str | None = None
    epsilon: Epsilon | None = None
    setting: Slug | None = None


Step = Annotated[
    float | str,
    BeforeValidator(lambda v: as_float(v) if isinstance(v, int) else read_number(v)),
    PlainSerializer(write_number, when_used="json"),
]
"""An ε, or the name of a setting."""


class Claim(Section):
    """One statement of a source, and the region of a seed-mean in which it holds.

    - ``order``: a is greater than b
    - ``difference``: a − b lies between ``at_least`` and ``at_most``
    - ``threshold``: a lies between them
    - ``ratio``: a / b lies between them, and b is greater than 0
    - ``shape``: along ``over`` (values of ε, or settings), a (or a − b) ``rises`` or ``falls`` (from the
      first to the last, and at no step the other way), ``peaks`` (is greater at ``peak`` than at both ends),
      or is ``flat`` (everywhere within ``margin`` of the first)
    - ``correlation``: Spearman's correlation over groups, between a and the trait ``along``, lies between
      ``at_least`` and ``at_most``; with ``given``, the partial correlation. Groups with too few records are
      left out, and a permutation of the groups must seldom give as much

    Parameters
    ----------
    name, says
        A short name, and the claim in words.
    of
        ``toll``, ``price``, ``value`` (the measure itself), ``spread`` (maximum minus minimum of the value
        over groups in each run: biased upwards by noise), ``weight`` (the groups' summed share of the
        aggregation weight, mean over rounds).
    measure, strategy, epsilon
        The defaults of both sides; the strategy by its label, or else the scenario's first.
    settings
        The settings in which the claim is checked, with a verdict in each.
    a, b
        The two sides.
    at_least, at_most
        The bounds; either may be left out.
    along, given
        The trait of a correlation: ``atypicality`` (how far a group is from all others) or ``size`` (its
        number of records); and the trait that is held constant.
    published
        The source's figure or direction, as text; empty if the claim is fedtoll's own.
    reason
        The reason for the bounds, if the source does not state them.
    """

    name: Slug
    says: Text
    kind: Kind
    of: QuantityName = "toll"
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
            raise ValueError(f"b: kind = {self.kind!r} {'needs it' if two else 'has only one side, a'}")
        bounded = self.kind in {"ratio", "difference", "threshold", "correlation"}
        stated = self.at_least is not None or self.at_most is not None
        if bounded != stated:
            need = "needs at least one of them" if bounded else "takes neither"
            raise ValueError(f"at_least, at_most: kind = {self.kind!r} {need}")
        if self.at_least is not None and self.at_most is not None and self.at_least >= self.at_most:
            raise ValueError("at_least must be less than at_most")
        only_with("shape", self.shape is not None, self.kind == "shape", "kind = 'shape'")
        self._check_shape()
        self._check_correlation()
        for side in (self.a, self.b or self.a):
            if (side.measure or self.measure) in VALUED and (side.of or self.of) in {"toll", "price"}:
                raise ValueError(f"measure: {side.measure or self.measure!r} has no toll; use of = 'value'")
            if (side.of or self.of) == "spread" and len(side.groups) == 1:
                raise ValueError("groups: a 'spread' needs at least two groups, or none for all of them")
            if (flag := side.measure or self.measure) in FLAGS and (
                (side.of or self.of) != "value" or len(side.groups) > 1
            ):
                raise ValueError(f"measure: {flag!r} needs of = 'value', for one group or for everybody")
        return self

    def _check_shape(self) -> None:
        only_with("over", bool(self.over), self.kind == "shape", "kind = 'shape'")
        if self.over and (len(self.over) < 2 or len(set(self.over)) != len(self.over)):
            raise ValueError("over: needs at least two steps, each once")
        if len({isinstance(step, str) for step in self.over}) > 1:
            raise ValueError("over: mixes values of ε with names of settings; give one kind")
        only_with("peak", self.peak is not None, self.shape == "peaks", "shape = 'peaks'")
        if self.peak is not None and self.peak not in self.over[1:-1]:
            raise ValueError("peak: must be a step of over other than the first and the last")
        only_with("margin", self.margin is not None, self.shape == "flat", "shape = 'flat'")

    def _check_correlation(self) -> None:
        only_with("along", self.along is not None, self.kind == "correlation", "kind = 'correlation'")
        if self.given is not None and self.along != "atypicality":
            raise ValueError("given: 'size' needs along = 'atypicality'")
        if self.kind == "correlation" and (self.a.of or self.of) not in {"toll", "price", "value"}:
            raise ValueError("of: a correlation needs 'toll', 'price' or 'value'")

    @property
    def parts(self) -> int:
        """The number of ways in which results can contradict the claim, by which p is multiplied."""
        if self.kind == "ratio":
            return sum(bound is not None for bound in (self.at_least, self.at_most))
        if self.kind != "shape":
            return 1
        return 2 if self.shape == "peaks" else len(self.over) - 1

    def terms(self, setting: str) -> list[Term]:
        """Return the sides of the claim in a setting, with every field filled in but a missing strategy.

        They are a, then b if the claim has it; for a shape, a at every step of ``over``, then b likewise.
        """
        defaults = {
            "of": self.of,
            "measure": self.measure,
            "strategy": self.strategy,
            "epsilon": self.epsilon,
            "setting": setting,
        }
        sides = [
            Term.model_validate({**defaults, **side.model_dump(exclude_none=True)})
            for side in (self.a, self.b)
            if side is not None
        ]
        if self.kind != "shape":
            return sides
        key = "setting" if isinstance(self.over[0], str) else "epsilon"
        return [side.model_copy(update={key: step}) for side in sides for step in self.over]


def consistent(
    source: Source | None, settings: Sequence[Setting], claims: Sequence[Claim], tune: Tune | None
) -> None:
    """Reject unknown settings, repeated names, claims without a source, and a source without claims.

    Raises
    ------
    ValueError
        In one line that names the claim or the key.
    """
    if bool(claims) != (source is not None):
        raise ValueError("claim, source: give both or neither")
    if any(s.tuned for s in settings) and tune is None:
        raise ValueError("setting: tuned needs [tune]")
    for key, names in (("setting", [s.name for s in settings]), ("claim", [c.name for c in claims])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{key}: {twice[0]!r} appears twice")
    known = [BASE, *(s.name for s in settings)]
    for claim in claims:
        for setting in claim.settings:
            for name in (setting, *(t.setting for t in claim.terms(setting) if t.setting)):
                if name not in known:
                    raise ValueError(f"claim {claim.name!r}: no setting {name!r}{nearest(name, known)}")

"""Personal models: every client keeps a model of its own, and is scored by it.

All gradients of a client's records are clipped, noised and charged, those of its own model too. What a client
sends, and its own model, therefore have the same privacy as a message of FedAvg with the same ε.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fedtoll.scenarios.errors import nearest
from fedtoll.scenarios.fields import Count, Section, only_with, without_default

NAMES = {"mr-mtl": "MR-MTL", "fedper": "FedPer", "ditto": "Ditto"}
"""The names of fedtoll's own kinds in texts."""

_RESOLVED: dict[str, Any] = {"path": "", "digest": "", "values": {}, "own_steps": 0, "usual": False}
"""The defaults of the keys that only a class of the user's has in a run."""


def title(kind: str) -> str:
    """Return the name of a kind in texts.

    Examples
    --------
    >>> title("ditto"), title("methods/mine.py:Mixture")
    ('Ditto', 'Mixture')
    """
    return NAMES.get(kind, kind.rsplit(":", 1)[-1])


class Personal(Section):
    """The models that clients keep.

    - ``mr-mtl`` (Liu, Hu, Wu and Smith 2022): client k keeps w_k from round to round. Each local step is one
      of DP-SGD on F_k(w) + (λ/2) ‖w − w̄‖², where w̄ is the model that the server sent. The client sends w_k,
      and the server averages. λ = 0 is training alone.
    - ``fedper`` (Arivazhagan et al. 2019): client k keeps the last arrays of the model, its head, and takes
      the others from the server. It trains all of them together and sends the others.
    - ``ditto`` (Li, Hu, Beirami and Smith 2021): client k trains the model that the server sent, as without
      this section, and sends it. It keeps v_k, which it then trains with ``steps`` further steps of DP-SGD
      on F_k(v) + (λ/2) ‖v − w‖², where w is the model that the server sent.
    - ``file.py:Class``, ``package.module:Class`` or the name of an entry point: a class of the user's
      (:class:`~fedtoll.clients.personal_models.base.PersonalModel`). All other keys of the section are its
      parameters.

    Parameters
    ----------
    kind
        ``mr-mtl``, ``fedper``, ``ditto`` or a class.
    strength
        λ of ``mr-mtl`` and ``ditto``. The gradient of its term depends on no record and is added after the
        noise. At λ = 1 / ``learning_rate`` a step forgets all that came before it; more is taken as that.
    last
        How many of the last parameter arrays ``fedper`` keeps: a linear layer has two, weight and bias.
        0 keeps none, which is FedAvg.
    steps
        The local steps of ``ditto`` with the client's own model in each round; as many as ``local_steps`` if
        not given.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    last: Annotated[int, Field(strict=True, ge=0)] | None = None
    steps: Count | None = None

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what does not go with the kind."""
        return without_default(handler(self), strength=None, last=None, steps=None)

    @property
    def parameters(self) -> dict[str, Any]:
        """The keys that the scenario states besides the kind."""
        typed = {"strength": self.strength, "last": self.last, "steps": self.steps}
        return {**{k: v for k, v in typed.items() if v is not None}, **(self.model_extra or {})}

    @property
    def built_in(self) -> bool:
        """Whether the kind is one of fedtoll's own."""
        return self.kind in NAMES

    @model_validator(mode="after")
    def _check(self) -> Personal:
        if not self.built_in:
            return self
        if self.model_extra:
            key = next(iter(self.model_extra))
            raise ValueError(f"{key}: unknown key{nearest(key, Personal.model_fields)}")
        fedper = self.kind == "fedper"
        only_with("strength", self.strength is not None, not fedper, "kind = 'mr-mtl' or 'ditto'")
        only_with("last", self.last is not None, fedper, "kind = 'fedper'", "last = 2")
        if self.steps is not None and self.kind != "ditto":
            raise ValueError("steps: only with kind = 'ditto'")
        return self

    def extra_steps(self, steps: int) -> int:
        """Return how many steps a client takes in a round besides the ``steps`` of what it sends."""
        return (self.steps or steps) if self.kind == "ditto" else 0

    def mu(self, learning_rate: float) -> float:
        """Return the λ in force with a learning rate: a step pulls no further than to the server's model.

        Examples
        --------
        >>> [Personal(kind="ditto", strength=4.0).mu(rate) for rate in (0.1, 1.0)]
        [4.0, 1.0]
        """
        return min(self.strength or 0.0, 1 / learning_rate)

    @property
    def label(self) -> str:
        """The method and its constants in a few words.

        Examples
        --------
        >>> Personal(kind="mr-mtl", strength=0.5).label, Personal(kind="fedper", last=2).label
        ('MR-MTL, λ = 0.5', 'FedPer, last 2 arrays')
        >>> Personal(kind="mine.py:Mixture", alpha=0.3).label
        'Mixture, alpha = 0.3'
        """
        if not self.built_in:
            values = {k: f"{v:g}" if isinstance(v, float) else v for k, v in self.parameters.items()}
            return ", ".join([title(self.kind), *(f"{k} = {v}" for k, v in values.items())])
        if self.kind == "fedper":
            return f"FedPer, last {self.last} array{'' if self.last == 1 else 's'}"
        more = f", {self.steps} own steps" if self.steps else ""
        return f"{NAMES[self.kind]}, λ = {self.strength:g}{more}"


class PersonalPlan(Personal):
    """The models that the clients of a run keep. A class of the user's is resolved.

    Parameters
    ----------
    path, digest
        Where the class is, and the SHA-256 of its source. Empty for fedtoll's own.
    values
        All its parameters.
    own_steps
        The steps that train only the client's own model in each round; ``None`` if as many as the others.
    usual
        Whether clients send what they would without models of their own.
    """

    path: str = ""
    digest: str = ""
    values: dict[str, Any] = Field(default_factory=dict)
    own_steps: Annotated[int, Field(ge=0)] | None = 0
    usual: bool = False

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what fedtoll's own kinds do not have, so that older runs keep their JSON and hash."""
        later = _RESOLVED if self.built_in else {}
        return without_default(handler(self), strength=None, last=None, steps=None, **later)

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters, or the keys that go with one of fedtoll's own kinds."""
        return super().parameters if self.built_in else self.values

    def extra_steps(self, steps: int) -> int:
        """Return how many steps a client takes in a round besides the ``steps`` of what it sends."""
        if self.built_in:
            return super().extra_steps(steps)
        return steps if self.own_steps is None else self.own_steps


def check(scenario: Any) -> None:
    """Raise ``ValueError`` in one line if personal models do not go with the scenario's other sections."""
    personal = scenario.personal
    if personal is None:
        return
    given, training = f"with personal.kind = {personal.kind!r}", scenario.training
    if (trust := scenario.privacy.trust) != "local":
        raise ValueError(
            f"privacy.trust = {trust!r}: must be 'local' {given}: what a client keeps is in no sum"
        )
    if (kind := scenario.participation.kind) != "all":
        raise ValueError(
            f"participation.kind = {kind!r}: must be 'all' {given}: a client that has not trained yet has no "
            "model of its own to be scored by"
        )
    if training.on_failure != "abort":
        raise ValueError(
            f"training.on_failure = 'skip': must be 'abort' {given}: a client whose reply is lost would be "
            "scored by an older model"
        )
    for key, averages in (
        ("training.average", training.average),
        ("tune.averages", scenario.tune is not None and True in scenario.tune.averages),
    ):
        if averages:
            raise ValueError(f"{key}: must be false {given}: it averages the server's models")
    if scenario.partition.copies > 1:
        raise ValueError(
            f"partition.copies = {scenario.partition.copies}: must be 1 {given}: a record of several clients "
            "has several models"
        )
    if scenario.partition.kind == "declared" and not all(h.group for h in scenario.partition.holders):
        raise ValueError(
            f"partition.holders: each needs a group {given}: nobody else knows which records are of its kind"
        )
    if scenario.tune is not None and scenario.tune.charge != "none":
        raise ValueError(f"tune.charge = {scenario.tune.charge!r}: must be 'none' {given}")

"""A DP-SGD classifier for scikit-learn and fairlearn: :class:`DPClassifier`.

It trains a single client with the cohort engine, so it is the central baseline of a federation.
scikit-learn's pipelines and fairlearn's reductions and post-processing accept it unchanged.

>>> DPClassifier(epsilon=0.5, hidden=(32,))
DPClassifier(epsilon=0.5, hidden=(32,))
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fedtoll.clients import losses, model
from fedtoll.clients.engines.base import Task
from fedtoll.clients.engines.cohort import CohortEngine
from fedtoll.privacy import accounting
from fedtoll.privacy.delta import delta_warning
from fedtoll.scenarios.budgets import mechanism_of
from fedtoll.scenarios.data.config import Data
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.fields import CLIP_ONLY
from fedtoll.scenarios.run import ClientPlan, Run, StrategyPlan
from fedtoll.scenarios.scenario import Model, Partition, Split

if TYPE_CHECKING:
    from numpy.random import RandomState


class DPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression or an MLP, trained by DP-SGD with (ε, δ)-differential privacy.

    It takes the same steps as a client of a federation: Poisson batches, per-example clipping, Gaussian
    noise, and the same random streams for the same seed. A scenario with one client, FedAvg,
    ``rounds = epochs``, ``local_epochs = 1`` and the same constants trains the same model.

    Parameters
    ----------
    epsilon
        ε of one fit, for adding or removing one record. ``inf`` neither clips nor adds noise;
        ``"clip-only"`` only clips. Neither is private.
    delta
        δ of (ε, δ)-differential privacy.
    clip
        Bound on the norm of a record's gradient, *after* multiplication by its sample weight.
    epochs
        Expected number of passes over the data; one epoch is ``round(1 / q)`` steps.
    batch_size
        B = q · n, the expected size of a Poisson batch; at most the public size.
    learning_rate
        Learning rate, constant over all steps.
    hidden
        Widths of the hidden layers, which have ReLU; logistic regression if empty.
    public_size
        n, the declared number of records, which determines q, B and the number of steps. By default the
        records are counted, and their number becomes public.
    classes
        The possible labels. By default they are read from ``y``, and become public.
    centre, scale
        Public facts about the columns, one number for all of them or one per column: the features are
        (X − centre) / scale. Nothing is ever fitted on ``X``.
    accountant
        How releases compose: ``pld``, ``rdp`` or ``prv``, see ``fedtoll budget``.
    random_state
        An integer (or a ``RandomState``) gives a reproducible *simulation*: whoever knows it can subtract the
        noise. With ``None`` all noise comes from the operating system's cryptographic generator; batches and
        initial weights come from a generator that is not cryptographic, seeded with 128 bits from there.

    Attributes
    ----------
    classes_ : array of shape (C,)
    n_features_in_ : int
    epsilon_ : float
        ε spent by this fit, at most ``epsilon``; infinity without noise.
    noise_multiplier_ : float
        σ, in units of the clip.
    sampling_rate_ : float
        q.
    n_steps_ : int
        Number of DP-SGD steps.
    public_size_ : int
    parameters_ : list of arrays
        Weight ``(out, in)`` and bias ``(out,)`` of every layer; two classes have one output.

    Notes
    -----
    What ε covers, and what it does not:

    - ε covers one ``fit``. If you fit m times on the same records and release the results, compose the m
      budgets. A grid search or a reduction is m fits (fairlearn's ``GridSearch`` fits one model per point),
      and so is choosing among them by a score on the same records.
    - A record enters only through its own features, label and weight. A sample weight or label that was
      computed from other records is an external input, which ε does not cover. Reductions compute such
      weights, from the frequencies of the groups and from earlier models.
    - Several fits with the same integer ``random_state`` share their noise: never release them together.
    - Without ``public_size`` and ``classes``, the number of records and the labels are taken from the data
      and become public: they determine q, B, the steps and the shape of the model. ``fit`` warns about it.
    - The error of a fit that fails because of a record (not finite, an undeclared label) reveals this.
    - ``ThresholdOptimizer``, and other post-processing that looks at the records again, is not covered.

    Weights are applied before clipping (the sensitivity is ``clip``, whatever the weight), so the clip
    reduces the effect of a large weight.

    References
    ----------
    Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar and Zhang (2016). Deep learning with differential
    privacy. CCS.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> facts = {"centre": [15, 20, 90], "scale": [5, 5, 25]}  # known in advance, not computed
    >>> facts |= {"public_size": 569, "classes": [0, 1]}
    >>> classifier = DPClassifier(epsilon=2.0, batch_size=64, random_state=0, **facts).fit(X[:, :3], y)
    >>> classifier.epsilon_ <= 2.0, classifier.n_steps_, classifier.predict(X[:2, :3])
    (True, 180, array([0, 0]))
    """

    def __init__(
        self,
        epsilon: float | Literal["clip-only"] = 1.0,
        delta: float = 1e-5,
        *,
        clip: float = 1.0,
        epochs: int = 20,
        batch_size: int = 256,
        learning_rate: float = 1.0,
        hidden: tuple[int, ...] = (),
        public_size: int | None = None,
        classes: ArrayLike | None = None,
        centre: ArrayLike = 0.0,
        scale: ArrayLike = 1.0,
        accountant: Literal["pld", "rdp", "prv"] = "pld",
        random_state: int | RandomState | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.clip = clip
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.hidden = hidden
        self.public_size = public_size
        self.classes = classes
        self.centre = centre
        self.scale = scale
        self.accountant = accountant
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> DPClassifier:
        """Train the classifier from its initial weights.

        Parameters
        ----------
        X : array of shape (N, D)
        y : array of shape (N,)
        sample_weight : array of shape (N,), optional
            Non-negative; multiplies the loss of a record before clipping.

        Returns
        -------
        DPClassifier
            The fitted classifier.

        Raises
        ------
        ValueError
            If a parameter is out of its range, records are not numbers, there are fewer than two classes,
            no noise reaches the requested ε, or δ times the public size is 1 or more.

        Warns
        -----
        UserWarning
            If ε is finite and the public size or the classes are taken from the data, or δ times the public
            size is .1 or more.
        """
        self._check()
        self._warn()
        records: NDArray[np.float64]
        records, targets = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(targets)
        features_ND, labels_N = self._features(records), self._labels(np.asarray(targets))
        weights_N = None
        if sample_weight is not None:
            weight = np.array(_check_sample_weight(sample_weight, records, dtype=np.float64))
            if (weight < 0).any():
                raise ValueError("sample_weight: must be 0 or more")
            weights_N = torch.from_numpy(weight)
        run = self._run(len(records))
        plan = run.clients[0]
        parameters = model.initial(run.model, records.shape[1], run.classes, run.precision, run.seed)
        # A new engine, because it caches the records of its clients.
        engine = CohortEngine(secret=self.random_state is None)
        for epoch in range(1, run.rounds + 1):
            task = Task(plan, epoch, parameters, features_ND, labels_N, weights_N=weights_N)
            parameters = engine.train(run, [task])[0].parameters
        self.parameters_ = parameters
        self.public_size_ = plan.size
        self.sampling_rate_ = plan.sampling_rate
        self.n_steps_ = plan.steps * run.rounds
        self.noise_multiplier_ = plan.noise_multiplier
        spent = accounting.Event(plan.noise_multiplier, plan.sampling_rate, self.n_steps_)
        self.epsilon_ = accounting.epsilon([spent], float(self.delta), self.accountant)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the logits, shape ``(N, C)``; for two classes those of the second, shape ``(N,)``."""
        logits_NC = self._logits(X).numpy()
        return logits_NC[:, 0] if logits_NC.shape[1] == 1 else logits_NC

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of every class, shape ``(N, C)``, in the order of ``classes_``."""
        probabilities_NC: NDArray[np.float64] = losses.probabilities(self._logits(X)).numpy()
        return probabilities_NC

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most likely class of every record, shape ``(N,)``; of two tied classes the second."""
        probabilities_NC = self.predict_proba(X)
        if len(self.classes_) == 2:
            chosen = (probabilities_NC[:, 1] >= 0.5).astype(np.int64)
        else:
            chosen = probabilities_NC.argmax(axis=1)
        return np.asarray(self.classes_[chosen])

    def _logits(self, X: ArrayLike) -> torch.Tensor:
        check_is_fitted(self)
        records: NDArray[np.float64] = validate_data(self, X, dtype=np.float64, reset=False)
        # In float64, so that the logit of a record does not depend on the other rows.
        module = model.build(self._model(), self.n_features_in_, len(self.classes_), "float64")
        model.put(module, self.parameters_)
        with torch.no_grad():
            logits: torch.Tensor = module(self._features(records).double())
        return logits

    def _features(self, X: NDArray[np.float64]) -> torch.Tensor:
        centre, scale = (np.asarray(v, dtype=np.float64) for v in (self.centre, self.scale))
        for name, value in (("centre", centre), ("scale", scale)):
            if value.shape not in {(), (X.shape[1],)}:
                raise ValueError(f"{name}: must be a number or {X.shape[1]} of them, one per column of X")
        return torch.from_numpy(((X - centre) / scale).astype(np.float32))

    def _labels(self, y: NDArray[Any]) -> torch.Tensor:
        """Set ``classes_``, and return the index of every label in it."""
        self.classes_ = np.unique(y if self.classes is None else np.asarray(self.classes))
        if len(self.classes_) < 2:
            raise ValueError(f"needs two classes or more, got one class: {self.classes_[0]!r}")
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if (unknown := self.classes_[codes] != y).any():
            raise ValueError(f"y contains {y[unknown][0]!r}, which is not among the declared classes")
        return torch.from_numpy(codes.astype(np.int64))

    def _model(self) -> Model:
        hidden = tuple(int(width) for width in self.hidden)
        return Model(kind="mlp", hidden=hidden) if hidden else Model()

    def _run(self, counted: int) -> Run:
        """Return the constants of the training in the form that engines read; it contains no records."""
        size = counted if self.public_size is None else int(self.public_size)
        rate = min(1.0, self.batch_size / size)
        steps = max(1, round(1 / rate))
        epsilon = math.inf if self.epsilon == CLIP_ONLY else float(self.epsilon)
        mechanism = mechanism_of(CLIP_ONLY if self.epsilon == CLIP_ONLY else epsilon)
        private = mechanism == "dp-sgd"
        if private:
            self._check_delta(size)
        noise = self._noise(epsilon, rate, steps * int(self.epochs)) if private else 0.0
        plan = ClientPlan(
            id=0,
            group="",
            size=size,
            sampling_rate=rate,
            batch_size=rate * size,
            steps=steps,
            noise_multiplier=noise,
        )
        seed = self._seed()
        return Run(
            data=Data(source="(given)", groups=("(none)",)),
            checksum="",
            split=Split(),
            partition=Partition(),
            model=self._model(),
            classes=len(self.classes_),
            groups=(),
            rounds=int(self.epochs),
            learning_rate=float(self.learning_rate),
            clip=None if mechanism == "none" else float(self.clip),
            engine="cohort",
            device="cpu",
            precision="float32",
            mechanism=mechanism,
            epsilon=epsilon,
            delta=float(self.delta) if private else None,
            accountant=self.accountant if private else None,
            strategy=StrategyPlan(name="(alone)", path="", parameters={}),
            statistics=(),
            clients=(plan,),
            seed=seed,
            noise_seed=seed if private else 0,
        )

    def _noise(self, epsilon: float, rate: float, steps: int) -> float:
        try:
            return accounting.calibrate(
                epsilon, sampling_rate=rate, count=steps, delta=float(self.delta), accountant=self.accountant
            )
        except ScenarioError as error:
            raise ValueError(str(error).removeprefix("privacy.epsilons: ")) from None

    def _seed(self) -> int:
        if self.random_state is None:
            entropy = np.random.SeedSequence().entropy
            assert isinstance(entropy, int)
            return entropy
        if isinstance(self.random_state, np.random.RandomState):
            return int(self.random_state.randint(2**31 - 1))
        return int(self.random_state)

    def _check_delta(self, size: int) -> None:
        """Raise or warn if δ is large for this many records."""
        try:
            warning = delta_warning(float(self.delta), size)
        except ScenarioError as error:
            raise ValueError(str(error).removeprefix("privacy.")) from None
        if warning:
            warnings.warn(warning.removeprefix("privacy."), UserWarning, stacklevel=4)

    def _warn(self) -> None:
        """Warn if this fit makes undeclared facts about the data public."""
        if self.epsilon == CLIP_ONLY or math.isinf(float(self.epsilon)):
            return
        undeclared = [name for name in ("public_size", "classes") if getattr(self, name) is None]
        if undeclared:
            warnings.warn(
                f"{' and '.join(undeclared)} not given: taken from the data and made public outside ε",
                UserWarning,
                stacklevel=3,
            )

    def _check(self) -> None:
        """Raise ValueError if a parameter is out of its range."""
        if self.epsilon != CLIP_ONLY and not _number(self.epsilon, 0, math.inf, closed=True):
            raise ValueError(f"epsilon = {self.epsilon!r}: must be greater than 0, inf or 'clip-only'")
        if not _number(self.delta, 0, 1):
            raise ValueError(f"delta = {self.delta!r}: must be between 0 and 1")
        for name in ("clip", "learning_rate"):
            if not _number(getattr(self, name), 0, math.inf):
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be greater than 0")
        counts = {"epochs": self.epochs, "batch_size": self.batch_size}
        counts |= {} if self.public_size is None else {"public_size": self.public_size}
        counts |= {f"hidden[{i}]": width for i, width in enumerate(self.hidden)}
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} = {value!r}: must be an integer of 1 or more")
        if not (np.asarray(self.scale, dtype=np.float64) > 0).all():
            raise ValueError("scale: must be greater than 0")
        if self.accountant not in accounting.ACCOUNTANTS:
            raise ValueError(f"accountant = {self.accountant!r}: must be 'pld', 'rdp' or 'prv'")


def _number(value: object, low: float, high: float, *, closed: bool = False) -> bool:
    """Return whether a value is a number in (low, high), or in (low, high] if ``closed``."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return low < float(value) < high or (closed and float(value) == high)

"""fedtoll for scikit-learn and fairlearn: :class:`DPClassifier`, DP-SGD with ``fit`` and ``predict``.

It trains one client alone with the cohort engine, so it is the central baseline of a federation.
scikit-learn's pipelines and fairlearn's reductions and post-processing take it unchanged.

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
from fedtoll.scenarios.data.config import Data
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.fields import CLIP_ONLY
from fedtoll.scenarios.run import ClientPlan, Run, StrategyPlan, mechanism_of
from fedtoll.scenarios.scenario import Model, Partition, Split

if TYPE_CHECKING:
    from numpy.random import RandomState


class DPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression, or an MLP, trained by DP-SGD within (ε, δ).

    The step is the one that a client of a federation takes: Poisson batches, gradients clipped one by one,
    Gaussian noise, the same streams from the same seed. A scenario with one client, FedAvg,
    ``rounds = epochs``, ``local_epochs = 1`` and the same constants trains the same model.

    Parameters
    ----------
    epsilon
        ε of one fit for one record, added or removed. ``inf`` neither clips nor adds noise;
        ``"clip-only"`` clips alone. Neither is private.
    delta
        δ of (ε, δ)-differential privacy.
    clip
        The bound of a record's gradient, *after* its sample weight.
    epochs
        Passes over the data in expectation; one epoch is ``round(1 / q)`` steps.
    batch_size
        B = q · n, the expected size of a Poisson batch; at most the public size.
    learning_rate
        Constant.
    hidden
        Widths of hidden layers with ReLU; none is logistic regression.
    public_size
        n, the declared number of records, which q, B and the number of steps follow from. Where it is not
        given the records are counted, and their number becomes public.
    classes
        The labels that there may be. Where they are not given they are read off ``y``, and become public.
    centre, scale
        Public facts of the columns, a number for all of them or one for each: features enter as
        (X − centre) / scale. Nothing is ever fitted on ``X``.
    accountant
        ``rdp`` or ``prv``.
    random_state
        A whole number (or a ``RandomState``) makes a *simulation* that can be repeated: who knows it can
        subtract the noise. ``None`` takes 128 bits from the operating system.

    Attributes
    ----------
    classes_ : array of shape (C,)
    n_features_in_ : int
    epsilon_ : float
        ε spent by this fit, at most ``epsilon``; infinity where nothing is noised.
    noise_multiplier_ : float
        σ, in units of the clip.
    sampling_rate_ : float
        q.
    n_steps_ : int
        DP-SGD steps taken.
    public_size_ : int
    parameters_ : list of arrays
        Weight ``(out, in)`` and bias ``(out,)`` of every layer; two classes have one output.

    Notes
    -----
    What ε covers, and what it does not:

    - one ``fit``. Whoever fits m times on the same records and lets the results be seen spends m times:
      compose them. A grid search or a reduction (fairlearn's ``GridSearch`` fits one model a point) is m
      fits, and so is choosing among them by a score on the same records.
    - records enter by their own features, label and weight alone. A sample weight or a label that was
      computed from other records (as reductions do: theirs depend on the groups' frequencies and on
      earlier models) is an input from outside, which ε does not cover.
    - several fits with one whole-number ``random_state`` share their noise: never release them together.
    - without ``public_size`` and ``classes`` the number of records and the labels are taken from the data and
      become public: they set q, B, the steps and the shape of the model. ``fit`` warns of that.
    - a fit that fails because of what a record holds (not finite, an undeclared label) tells so.
    - ``ThresholdOptimizer`` and other post-processing that looks at records again is not covered.

    Weights are applied inside the clip (the sensitivity stays ``clip``, whatever the weight), so the
    clip undoes part of a large weight.

    References
    ----------
    Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar and Zhang (2016). Deep learning with differential
    privacy. CCS.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> facts = {"centre": [15, 20, 90], "scale": [5, 5, 25]}  # known beforehand, not computed
    >>> facts |= {"public_size": 569, "classes": [0, 1]}
    >>> made = DPClassifier(epsilon=2.0, batch_size=64, random_state=0, **facts).fit(X[:, :3], y)
    >>> made.epsilon_ <= 2.0, made.n_steps_, made.predict(X[:2, :3])
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
        accountant: Literal["rdp", "prv"] = "rdp",
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
        """Train from the beginning.

        Parameters
        ----------
        X : array of shape (N, D)
        y : array of shape (N,)
        sample_weight : array of shape (N,), optional
            Of 0 or more. It multiplies the record's loss before the clip.

        Returns
        -------
        DPClassifier
            Itself.

        Raises
        ------
        ValueError
            For a parameter out of its range, records that are not numbers, fewer than two classes, or an ε
            that no noise reaches.

        Warns
        -----
        UserWarning
            Where ε is finite and the public size or the classes are taken from the data.
        """
        self._check()
        self._warn()
        records: NDArray[np.float64]
        records, given = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(given)
        features_ND, labels_N = self._features(records), self._labels(np.asarray(given))
        weights_N = None
        if sample_weight is not None:
            weight = np.array(_check_sample_weight(sample_weight, records, dtype=np.float64))
            if (weight < 0).any():
                raise ValueError("sample_weight: must be 0 or more")
            weights_N = torch.from_numpy(weight)
        run = self._run(len(records))
        plan = run.clients[0]
        kept = model.initial(run.model, records.shape[1], run.classes, run.precision, run.seed)
        engine = CohortEngine()  # its own: what an engine keeps is for one set of records
        for epoch in range(1, run.rounds + 1):
            task = Task(plan, epoch, kept, features_ND, labels_N, weights_N=weights_N)
            kept = engine.train(run, [task])[0].parameters
        self.parameters_ = kept
        self.public_size_ = plan.size
        self.sampling_rate_ = plan.sampling_rate
        self.n_steps_ = plan.steps * run.rounds
        self.noise_multiplier_ = plan.noise_multiplier
        spent = accounting.Event(plan.noise_multiplier, plan.sampling_rate, self.n_steps_)
        self.epsilon_ = accounting.epsilon([spent], float(self.delta), self.accountant)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the logits: shape ``(N,)``, of the second class, for two classes; else ``(N, C)``."""
        logits_NC = self._logits(X).numpy()
        return logits_NC[:, 0] if logits_NC.shape[1] == 1 else logits_NC

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of every class, shape ``(N, C)``, in the order of ``classes_``."""
        made: NDArray[np.float64] = losses.probabilities(self._logits(X)).numpy()
        return made

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest class of every record, shape ``(N,)``; of two, the second from .5 on."""
        probabilities_NC = self.predict_proba(X)
        if len(self.classes_) == 2:
            chosen = (probabilities_NC[:, 1] >= 0.5).astype(np.int64)
        else:
            chosen = probabilities_NC.argmax(axis=1)
        return np.asarray(self.classes_[chosen])

    def _logits(self, X: ArrayLike) -> torch.Tensor:
        check_is_fitted(self)
        records: NDArray[np.float64] = validate_data(self, X, dtype=np.float64, reset=False)
        # In float64, so that a record's logit does not hang on the rows beside it.
        module = model.build(self._model(), self.n_features_in_, len(self.classes_), "float64")
        model.put(module, self.parameters_)
        with torch.no_grad():
            logits: torch.Tensor = module(self._features(records).double())
        return logits

    def _features(self, X: NDArray[np.float64]) -> torch.Tensor:
        centre, scale = (np.asarray(v, dtype=np.float64) for v in (self.centre, self.scale))
        for name, value in (("centre", centre), ("scale", scale)):
            if value.shape not in {(), (X.shape[1],)}:
                raise ValueError(f"{name}: must be a number or {X.shape[1]} of them, one a column of X")
        return torch.from_numpy(((X - centre) / scale).astype(np.float32))

    def _labels(self, y: NDArray[Any]) -> torch.Tensor:
        """Set ``classes_``, and return the index of every label among them."""
        self.classes_ = np.unique(y if self.classes is None else np.asarray(self.classes))
        if len(self.classes_) < 2:
            raise ValueError(f"needs two classes or more; there is one class, {self.classes_[0]!r}")
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if (unknown := self.classes_[codes] != y).any():
            raise ValueError(f"y holds {y[unknown][0]!r}, which is not among the declared classes")
        return torch.from_numpy(codes.astype(np.int64))

    def _model(self) -> Model:
        hidden = tuple(int(width) for width in self.hidden)
        return Model(kind="mlp", hidden=hidden) if hidden else Model()

    def _run(self, counted: int) -> Run:
        """Return the training's constants as the engines read them; nothing in it names records."""
        size = counted if self.public_size is None else int(self.public_size)
        rate = min(1.0, self.batch_size / size)
        steps = max(1, round(1 / rate))
        epsilon = math.inf if self.epsilon == CLIP_ONLY else float(self.epsilon)
        mechanism = mechanism_of(CLIP_ONLY if self.epsilon == CLIP_ONLY else epsilon)
        private = mechanism == "dp-sgd"
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

    def _warn(self) -> None:
        """Warn of what this fit will make public though nobody declared it."""
        if self.epsilon == CLIP_ONLY or math.isinf(float(self.epsilon)):
            return
        taken = [name for name in ("public_size", "classes") if getattr(self, name) is None]
        if taken:
            warnings.warn(
                f"{' and '.join(taken)} not given: taken from the data, which makes them public outside ε",
                UserWarning,
                stacklevel=3,
            )

    def _check(self) -> None:
        """Refuse parameters that are out of their range."""
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
                raise ValueError(f"{name} = {value!r}: must be a whole number of 1 or more")
        if not (np.asarray(self.scale, dtype=np.float64) > 0).all():
            raise ValueError("scale: must be greater than 0")
        if self.accountant not in {"rdp", "prv"}:
            raise ValueError(f"accountant = {self.accountant!r}: must be 'rdp' or 'prv'")


def _number(value: object, low: float, high: float, *, closed: bool = False) -> bool:
    """Say whether a value is a number above ``low`` and below ``high`` (or at it, where that is closed)."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return low < float(value) < high or (closed and float(value) == high)

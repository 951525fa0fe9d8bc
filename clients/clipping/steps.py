"""What the engines share: one client's steps of a round with a client-side mechanism."""

from __future__ import annotations

import numpy as np
import torch

from fedtoll.clients.clipping import registry
from fedtoll.clients.clipping.base import TINY, Codes, Floats, Public
from fedtoll.clients.engines.base import Task
from fedtoll.clients.noise import noised
from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.scenarios.streams import Purpose, step_streams


def public_of(run: Run, client: ClientPlan) -> Public:
    """Return the public constants of a client; one with a public group has one group."""
    return Public(run.clip or 0.0, 1 if client.group else len(run.groups), client.batch_size)


def statistic_sd(run: Run, client: ClientPlan) -> float:
    """Return z / √s, the standard deviation of the noise in each cell of the statistic; 0 without noise."""
    planned = run.client_mechanism
    share = planned.statistic_share if planned is not None else 0.0
    return float(client.noise_multiplier / share**0.5) if share else 0.0


def check_noise(run: Run, sd: float, cells: int) -> None:
    """Raise if the counts of a private run would be released without noise."""
    if run.mechanism == "dp-sgd" and cells and not sd > 0:
        raise RunError("client_mechanism: its counts have no share of the noise")


def release(exact_M: Floats, sd: float, rng: np.random.Generator) -> Floats:
    """Return the statistic of one batch with its noise; exact under clip-only, where the noise is 0."""
    if sd == 0:
        return exact_M
    normals = rng.standard_normal((1, len(exact_M)))
    return np.asarray(noised(torch.from_numpy(exact_M[None]), torch.from_numpy(normals), [sd])[0].numpy())


def summed(rows_NM: Floats, shape: tuple[int, int]) -> Floats:
    """Return the sum of what records count for, each a vector of norm at most 1.

    Raises
    ------
    ValueError
        If the rows have another shape.
    """
    rows_NM = np.nan_to_num(np.asarray(rows_NM, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if rows_NM.shape != shape:
        raise ValueError(f"count returned the shape {rows_NM.shape}, not {shape}")
    norms_N1 = np.linalg.norm(rows_NM, axis=1, keepdims=True)
    return np.asarray((rows_NM / np.maximum(1.0, norms_N1)).sum(axis=0))


def at_most(factors_N: Floats, norms_N: Floats, bound: float) -> Floats:
    """Return factors, reduced where a scaled gradient would exceed the bound; those not finite are 0."""
    factors_N = np.nan_to_num(np.asarray(factors_N, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if factors_N.shape != norms_N.shape:
        raise ValueError(f"scale returned the shape {factors_N.shape}, not {norms_N.shape}")
    return np.clip(factors_N, 0.0, bound / (norms_N + TINY))


class Steps:
    """One client's steps in one round.

    Parameters
    ----------
    run, task
        The run, which has a mechanism, and the client's task.

    Attributes
    ----------
    state
        The mechanism's state after the last step.
    bounds
        The bound of every step so far.
    """

    def __init__(self, run: Run, task: Task) -> None:
        assert run.client_mechanism is not None
        plan = task.plan
        self._mechanism = registry.built(run.client_mechanism)
        self._public = public_of(run, plan)
        self._sd = statistic_sd(run, plan)
        self._streams = step_streams(
            run.noise_seed, Purpose.BATCH_STATISTIC, plan.id, task.round, steps=plan.steps
        )
        check_noise(run, self._sd, self._mechanism.cells(self._public.groups))
        alike = plan.group or task.groups_N is None
        self._groups_N: Codes = (
            np.zeros(len(task.labels_N), np.int64) if alike else np.asarray(task.groups_N, dtype=np.int64)
        )
        start = task.mechanism_state
        self.state = self._mechanism.init(self._public) if start is None else np.array(start)
        self.bounds: list[float] = []

    @property
    def outcome(self) -> tuple[list[float], float]:
        """The mechanism's state after the last step, and the root mean square of the bounds of all steps."""
        return self.state.tolist(), float(np.sqrt(np.mean(np.square(self.bounds))))

    def factors(self, norms_N: Floats, rows_N: Codes) -> Floats:
        """Release the statistic of one batch and return the factor of each gradient.

        Parameters
        ----------
        norms_N
            The norm of each gradient in the batch. One that is not finite counts as absent.
        rows_N
            The positions of the batch's records among the client's.

        Returns
        -------
        numpy.ndarray
            ``[N]``; 0 for absent records. No scaled gradient exceeds the last of ``bounds``.
        """
        finite_N = np.isfinite(norms_N)
        present_N, groups_N = norms_N[finite_N], self._groups_N[rows_N][finite_N]
        mechanism, public, rng = self._mechanism, self._public, next(self._streams)
        if cells := mechanism.cells(public.groups):
            rows_NM = mechanism.count(present_N, groups_N, self.state, public)
            exact_M = summed(rows_NM, (len(present_N), cells))
            self.state = self._checked(mechanism.update(release(exact_M, self._sd, rng), self.state, public))
        bound = float(mechanism.bound(self.state, public))
        if not 0 < bound < np.inf:
            raise ValueError(f"bound returned {bound}: must be finite and greater than 0")
        self.bounds.append(bound)
        factors_N = np.zeros(len(norms_N))
        scale_N = mechanism.scale(present_N, groups_N, self.state, public)
        factors_N[finite_N] = at_most(scale_N, present_N, bound)
        return factors_N

    def _checked(self, state: Floats) -> Floats:
        """Return a new state; raise unless it is a finite array of the old one's shape."""
        new = np.asarray(state, dtype=np.float64)
        if new.shape != self.state.shape or not np.isfinite(new).all():
            raise ValueError(f"update returned {new}: must be {self.state.size} finite numbers")
        return new

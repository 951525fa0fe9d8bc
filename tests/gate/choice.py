"""A choice of constants is paid for: its theorem is computed here again, from the run as JSON alone."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from fedtoll.privacy import accounting
from fedtoll.privacy.ledger import DP_SGD
from fedtoll.scenarios.choice import Distribution, Poisson, TruncatedNegativeBinomial
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import StrategySpec
from fedtoll.server.app import federate
from fedtoll.server.plan import Candidates, plan
from tests.gate import tables
from tests.gate.ledger import EVERY, ROUNDS, STEPS, Row, Tap, due, rows_of
from tests.gate.system import DELTA, EVERYTHING, RATE, STEP, System, check, scenario
from tests.peers.test_accounting import divergence

TRIES: tuple[Distribution, ...] = (
    TruncatedNegativeBinomial(eta=0.5, gamma=0.2),
    Poisson(mean=3.0),
)
TRAININGS = 2
EPSILON = 2.0
"""Of the whole run. With little noise, Rényi divergences at fractional orders take many times as long."""
CHOSEN = (0, "choice of constants")
"""The round and the name of the first release."""

Curve = NDArray[np.float64]


def chosen_run(system: System, tries: Distribution) -> Run:
    """Plan a run whose constants come from three candidates, of which another one costs more."""
    section = tables.section(system.classes, "", ("sex",), ())
    keys = {"rounds": ROUNDS, "local_steps": STEPS, "sampling_rate": RATE, "learning_rate": STEP}
    stated = scenario(system, section, keys, EVERY, EVERYTHING)
    private = stated.privacy.model_copy(update={"epsilons": (EPSILON,), "accountant": "rdp"})
    stated = stated.model_copy(update={"privacy": private})
    training, spec = stated.training, stated.strategies[0]
    rarer = training.model_copy(update={"sampling_rate": RATE / 2, "local_steps": 5, "rounds": ROUNDS + 1})
    silent = StrategySpec(name="fedavg")
    grid = ((training, spec), (rarer, spec), (training, silent))
    (run,) = plan(stated, "gate.toml", choice=Candidates(tries, TRAININGS, grid)).runs
    return run


# The theorems, and what a client pays.


def price(one: Curve, tries: Any, orders: Curve) -> Curve:
    """Return the RDP of the best of K runs (Papernot and Steinke 2022, theorems 2 and 6)."""
    prices = []
    for i, order in enumerate(orders):
        if tries["kind"] == "poisson":
            mean = tries["mean"]
            epsilon = math.log(1 + 1 / (order - 1))
            exponents = (orders - 1) * (one - epsilon + np.log(1 - 1 / orders)) - np.log(orders)
            extra = mean * min(1.0, math.exp(min(0.0, exponents.min())), math.sqrt(1 - math.exp(-one.min())))
        else:
            eta, gamma = tries["eta"], tries["gamma"]
            mean = eta * (1 - gamma) / (gamma * (1 - gamma**eta))
            extra = (1 + eta) * min((1 - 1 / orders) * one + math.log(1 / gamma) / orders)
        prices.append(one[i] + extra + math.log(mean) / (order - 1))
    return np.array([min(prices[i:]) for i in range(len(prices))])


def curve(rows: list[tuple[float, float, int]], orders: Curve) -> Curve:
    """Return the RDP of releases (q, σ, count)."""
    return np.array([sum(n * divergence(o, q, z) for q, z, n in rows) for o in orders])


def recomputed(run: dict[str, Any], client: int, rows: list[Row]) -> float:
    """Return the ε of the choice and of the releases in ``rows``."""
    orders = np.array(accounting.ORDERS)
    plan, choice = run["clients"][client], run["choice"]
    releases = sum(-(-run["rounds"] // s["every"]) for s in run["statistics"])
    steps = plan["steps"] * run["rounds"]
    own = [
        (plan["sampling_rate"], plan["noise_multiplier"], steps),
        (1.0, run["statistics"][0]["noise_multiplier"], releases),
    ]
    others = [
        [
            (t["sampling_rate"], t["noise_multiplier"], t["steps"]),
            *([(1.0, t["statistic_noise_multiplier"], n)] if (n := t["statistic_releases"]) else []),
        ]
        for t in choice["others"][client if len(choice["others"]) > 1 else 0]
    ]
    complete = [curve(events, orders) for events in (own, *others)]
    share = sum(n for _, what, _, _, n in rows if what == DP_SGD) / steps
    so_far = curve([(q, z, n) for _, _, q, z, n in rows], orders)
    largest = np.max([so_far, *(share * c for c in complete[1:])], axis=0)
    paid = price(choice["trainings"] * np.max(complete, axis=0), choice["distribution"], orders) + largest
    return float(
        max(0.0, np.min(paid + np.log(1 - 1 / orders) - (math.log(DELTA) + np.log(orders)) / (orders - 1)))
    )


@check("choice of constants")
def choice(system: System) -> None:
    """The ε of a run whose constants were chosen includes the choice, and the total is what was stated."""
    for tries in TRIES:
        run = chosen_run(system, tries)
        ledger = federate(tap := Tap(run), run)["ledger"]
        stated = json.loads(run.to_json())
        assert stated["choice"]["trainings"] == TRAININGS
        for client in range(len(run.clients)):
            rows = rows_of(ledger, client)
            assert rows, f"client {client} is not charged"
            assert rows[0][:2] == CHOSEN, f"client {client}: the choice is not charged"
            assert rows[1:] == due(run, client), f"client {client}: the ledger has other releases"
            last: Any = tap.received[ROUNDS, client][0]["fedtoll.ledger"]
            assert [last["round"][0], last["what"][0]] == list(CHOSEN), f"client {client} hides the choice"
            spent = _spent(ledger, client)
            assert list(spent) == list(range(ROUNDS + 1)), f"client {client}: ε in rounds {list(spent)}"
            for round, claimed in spent.items():
                until = due(run, client, round) if round else []
                expected = recomputed(stated, client, until)
                assert math.isclose(claimed, expected, rel_tol=1e-6), (
                    f"client {client}, round {round}: ε = {claimed:.4g} in the ledger, {expected:.4g} spent"
                )
            assert 0.98 * EPSILON < claimed <= EPSILON * (1 + 1e-9), (
                f"client {client} spends {claimed:.4g} of {EPSILON}"
            )


def _spent(ledger: pd.DataFrame, client: int) -> dict[int, float]:
    rows = ledger[ledger["client"] == client].groupby("round")["epsilon_spent"].agg(["min", "max"])
    assert (rows["min"] == rows["max"]).all()
    return {int(str(round)): float(spent) for round, spent in rows["max"].items()}


DRAWS, LARGEST = 20_000, 40


def probabilities(tries: Distribution) -> Curve:
    """Return P[K = 0], P[K = 1], ..., P[K > LARGEST]."""
    numbers = np.arange(LARGEST + 1)
    if isinstance(tries, Poisson):
        found = stats.poisson.pmf(numbers, tries.mean)
    elif tries.eta == 0:
        found = stats.logser.pmf(numbers, 1 - tries.gamma)
    else:
        found = stats.nbinom.pmf(numbers, tries.eta, tries.gamma)
        found[0] = 0.0
        found /= stats.nbinom.sf(0, tries.eta, tries.gamma)
    return np.array([*found, 1 - found.sum()])


@check("number of candidates")
def stopping(system: System) -> None:
    """The number of candidates is drawn from the distribution that the price is computed from."""
    for tries in (*TRIES, *(TruncatedNegativeBinomial(eta=eta, gamma=0.15) for eta in (0.0, 1.0, 3.0))):
        rng = np.random.default_rng([system.seed, 3])
        drawn = np.array([tries.draw(rng) for _ in range(DRAWS)])
        expected = probabilities(tries)
        counted = np.bincount(np.minimum(drawn, LARGEST + 1), minlength=LARGEST + 2) / DRAWS
        # Dvoretzky, Kiefer and Wolfowitz 1956: a false alarm has probability 1e-9.
        error = float(np.abs(np.cumsum(counted) - np.cumsum(expected)).max())
        allowed = math.sqrt(math.log(2 / 1e-9) / (2 * DRAWS))
        assert error < allowed, f"{tries}: the share of K ≤ k is off by {error:.3f}"
        mean = float(drawn.mean())
        assert math.isclose(mean, tries.expected, rel_tol=0.1), f"{tries}: {mean:.2f} candidates on average"

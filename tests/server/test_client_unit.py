"""The client as the unit of privacy: clipped updates, one noise, sampled clients, an adaptive clip."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from fedtoll.audit.run import prepare
from fedtoll.clients import updates
from fedtoll.clients.failures import RejectedError
from fedtoll.clients.train import Clients
from fedtoll.privacy.ledger import ALL_CLIENTS, CLIENT_UPDATE
from fedtoll.scenarios import client_unit
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose, stream
from fedtoll.server.app import federate, fit
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import check
from fedtoll.server.trainer import simulate
from tests.gate.system import ask, flat, send
from tests.peers.oracle import at_least, at_most
from tests.server.federation import FEDAVG, parquet, planned, scenario

TRAINING = {"local_steps": 3, "sampling_rate": 0.002, "precision": "float64", "learning_rate": 0.5}
SIX = {"clients": {"Male": 4, "Female": 2}}
HALF = {"kind": "poisson", "rate": 0.5}
SOME = {"kind": "fraction", "fraction": 0.5, "seed": 1}


def runs(by: str = "central", strategy: dict[str, Any] = FEDAVG, **changes: Any) -> tuple[Run, Run]:
    """Return a private run of few rounds, and the same at ε = ∞."""
    training = {**TRAINING, **changes.pop("training", {})}
    privacy = {"epsilons": [4.0, "inf"], "unit": "client", "trust": by, **changes.pop("privacy", {})}
    private, free = planned(
        strategy, training=training, privacy=privacy, **{"partition": SIX, **changes}
    ).runs
    return private, free


def models(run: Run) -> list[Any]:
    found: list[Any] = []
    fit(LocalGrid(run), run, lambda _, model: found.append(model), Federation.of(run))
    return found


def local_updates(free: Run, model: Any, round: int) -> dict[int, np.ndarray[Any, Any]]:
    """Return the unclipped updates of all who take part in a round, as clients at ε = ∞ send them."""
    places = free.attendance.clients(round)
    answers = ask(free, model, round, places) if places else []
    return {a.client: a.update for a in answers}


def noise_of(run: Run, purpose: Purpose, *key: int, shapes: Any) -> np.ndarray[Any, Any]:
    rng = stream(run.noise_seed, purpose, *key)
    return np.concatenate([rng.standard_normal(shape).ravel() for shape in shapes])


CASES = [
    ("central", {}),
    ("central", {"participation": HALF}),
    ("central", {"participation": SOME, "privacy": {"weight_cap": 1.0}}),
    ("central", {"participation": {"kind": "availability", "availability": {"Female": 0.5}, "seed": 1}}),
    ("secure-aggregation", {"privacy": {"colluding": 2}}),
    ("secure-aggregation", {"participation": SOME}),
]


@pytest.mark.parametrize("engine", ["cohort", "opacus"])
@pytest.mark.parametrize(("by", "changes"), CASES, ids=str)
def test_a_round_is_the_sum_of_clipped_updates_and_one_noise(by, changes, engine):
    private, free = runs(by, **{**changes, "training": {"engine": engine, "clip": 0.05}})
    found = models(private)
    sizes = np.array([c.size for c in private.clients], dtype=float)
    p = np.full(6, 1 / 6) if "weight_cap" in changes.get("privacy", {}) else sizes / sizes.sum()
    rule = changes.get("participation", {"kind": "all"})
    chances = np.full(6, {"all": 1.0, "availability": 1.0}.get(rule["kind"], 0.5))
    if rule["kind"] == "availability":
        chances[[c.group == "Female" for c in private.clients]] = 0.5
    factor = p / (p @ chances)
    z, shapes = private.clients[0].noise_multiplier, [a.shape for a in found[0]]
    above = 0
    for round, (before, after) in enumerate(itertools.pairwise(found), 1):
        moved, exact = flat(after) - flat(before), np.zeros(flat(before).size)
        for k, update in local_updates(free, before, round).items():
            above += int(np.linalg.norm(update) > 0.05)
            exact += factor[k] * update * min(1, 0.05 / np.linalg.norm(update))
            if by != "central":
                honest = len(private.attendance.clients(round)) - private.colluding
                share = z * p.max() / (p[k] * math.sqrt(honest)) * 0.05
                exact += factor[k] * share * noise_of(private, Purpose.UPDATE, k, round, shapes=shapes)
        if by == "central":
            exact += z * 0.05 * factor.max() * noise_of(private, Purpose.SUM_NOISE, round, shapes=shapes)
        assert np.abs(moved - exact).max() < 1e-4 * z * 0.05 * factor.max()
    assert above > 0, "no update is clipped"


def test_flowers_fixed_clipping_gives_the_same_model_at_equal_weights(monkeypatch):
    """Its server clips each reply, averages, and adds noise of z C / K; right for equal weights only."""
    private, free = runs(strategy={"name": "uniform"}, training={"clip": 0.05, "rounds": 1})
    start, after = models(private)
    z, shapes = private.clients[0].noise_multiplier, [a.shape for a in start]
    inner = FedAvg(fraction_evaluate=0.0, weighted_by_key="one")
    theirs = DifferentialPrivacyServerSideFixedClipping(inner, z, 0.05, 6)
    theirs.current_arrays = ArrayRecord([*start])
    replies = send(LocalGrid(free), free, start)
    for reply in replies:
        reply.content.metric_records["metrics"]["one"] = 1.0
        del reply.content["fedtoll.ledger"]
    rng, sds = stream(private.noise_seed, Purpose.SUM_NOISE, 1), set()

    def injected(mean, sd, shape):
        sds.add(sd)
        return sd * rng.standard_normal(shape)

    monkeypatch.setattr(np.random, "normal", injected)
    arrays, _ = theirs.aggregate_train(1, replies)
    assert arrays is not None
    assert sds == {z * 0.05 / 6}
    assert shapes == [a.shape for a in arrays.to_numpy_ndarrays()]
    gap = flat(arrays.to_numpy_ndarrays()) - flat(after)
    assert np.abs(gap).max() < 2**-15 * z * 0.05 / 6  # our releases are rounded to a grid


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "changes", "rate"),
    [("central", {"participation": HALF}, 0.5), ("secure-aggregation", {"participation": SOME}, 1.0)],
    ids=["hidden", "seen"],
)
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_every_epsilon_is_that_of_an_oracle(by, changes, rate, accountant):
    private, _ = runs(by, **changes, privacy={"accountant": accountant}, training={"rounds": 5})
    ledger = simulate(private)["ledger"]
    (z,) = set(ledger["noise_multiplier"])
    assert set(ledger["release"]) == {CLIENT_UPDATE}
    assert set(ledger["sampling_rate"]) == {rate}
    most = 0.0
    for client, rows in ledger.groupby("client"):
        asked = [t for t in range(1, 6) if client in private.attendance.clients(t)]
        assert rows["round"].tolist() == ([1, 2, 3, 4, 5] if rate < 1 else asked)
        kinds = ((z, rate, len(rows)),)
        spent = rows["epsilon_spent"].max()
        assert at_least(kinds, 1e-5, 1e-3) <= spent <= at_most(kinds, 1e-5, 1e-3) * 1.2
        most = max(most, spent)
        if accountant == "pld":
            assert spent == pytest.approx(at_most(kinds, 1e-5, 1e-4), rel=1e-3)
    assert most == pytest.approx(4, rel=1e-3)
    assert (set(ledger["client"]) == {ALL_CLIENTS}) == (rate < 1)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["central", "secure-aggregation"])
def test_the_adaptive_clip_follows_the_noised_quantile_and_pays_for_it(by):
    """Andrew et al. 2021: both sums together cost what is charged."""
    private, free = runs(by, privacy={"adaptive_clip": 0.7}, training={"rounds": 4, "clip": 0.02})
    tables, z = simulate(private), private.clients[0].noise_multiplier
    clips = tables["rounds"]["update_clip"].to_numpy()
    of_bits, of_updates = 10 * z, 1 / math.sqrt(z**-2 - (10 * z) ** -2)
    bound, found = 0.02, models(private)
    for round, before in enumerate(found[:-1], 1):
        assert clips[round - 1] == pytest.approx(bound, rel=1e-4)
        expected = (of_updates * bound * max(c.weight or 0.0 for c in private.clients)) ** 2
        assert tables["rounds"]["effective_noise"][round - 1] == pytest.approx(expected, rel=1e-4)
        norms = [np.linalg.norm(update) for update in local_updates(free, before, round).values()]
        bits = sum(0.5 if norm <= bound else -0.5 for norm in norms)
        if by == "central":
            bits += (
                of_bits / 2 * stream(private.noise_seed, Purpose.SUM_STATISTIC, round, 0).standard_normal()
            )
        else:
            shares = [stream(private.noise_seed, Purpose.UPDATE_BIT, k, round) for k in range(6)]
            bits += of_bits / 2 / math.sqrt(6) * sum(rng.standard_normal(1)[0] for rng in shares)
        bound *= math.exp(-0.2 * (0.5 + bits / 6 - 0.7))
    spent = tables["ledger"]["epsilon_spent"].max()
    assert spent == pytest.approx(at_most(((z, 1.0, 4),), 1e-5, 1e-4), rel=1e-3)


def test_without_noise_the_clip_reaches_the_quantile():
    training = {"rounds": 30, "clip": 1.0, "learning_rate": 0.01}
    privacy = {"epsilons": ["clip-only"], "unit": "client", "trust": "central", "adaptive_clip": 0.5}
    (run,) = planned(FEDAVG, training={**TRAINING, **training}, privacy=privacy, partition=SIX).runs
    clips = simulate(run)["rounds"]["update_clip"]
    assert clips[0] == 1.0
    assert clips.iloc[-1] == pytest.approx(math.exp(-0.2 * 0.5 * 29), rel=0.5)  # far below: still falling


def test_a_round_that_nobody_joins_is_noised_and_charged():
    private, _ = runs(participation={"kind": "poisson", "rate": 0.05}, training={"rounds": 6})
    counts = private.attendance.present_TK.sum(axis=1)
    assert (counts == 0).any(), "somebody joins every round"
    tables, found = simulate(private), models(private)
    assert tables["ledger"]["round"].tolist() == [1, 2, 3, 4, 5, 6]
    assert (tables["rounds"]["effective_noise"] > 0).all()
    for before, after in itertools.pairwise(found):
        assert (flat(after) != flat(before)).all()
    assert tables["rounds"]["participants"].tolist() == counts.tolist()


def test_single_clients_give_the_bytes_of_clients_asked_together():
    private, _ = runs("secure-aggregation", privacy={"adaptive_clip": 0.5}, training={"engine": "opacus"})
    clients = Clients()

    def one_by_one(messages: Any, contexts: Any) -> Any:
        return [clients.train([m], [c])[0] for m, c in zip(messages, contexts, strict=True)]

    assert parquet(federate(LocalGrid(private, one_by_one), private)) == parquet(simulate(private))


@pytest.mark.parametrize("name", ["uniform", "fedavgm", "fedadam", "fedprox"])
def test_strategies_with_public_weights_run(name):
    private, _ = runs(strategy={"name": name}, participation=HALF)
    assert simulate(private)["groups"]["accuracy"].notna().all()


def test_weights_are_capped_and_sum_to_1():
    sizes = [100.0, 10, 10, 5, 1]
    weights = [s / sum(sizes) for s in sizes]
    assert client_unit.capped(weights, 5.0) == weights
    assert client_unit.capped(weights, 1.0) == pytest.approx([0.2] * 5)
    found = client_unit.capped(weights, 1.8)
    assert max(found) == pytest.approx(0.36)
    assert sum(found) == pytest.approx(1)
    assert found[1] / found[3] == pytest.approx(2)
    private, _ = runs(privacy={"weight_cap": 1.1}, partition={"kind": "iid", "clients": 4, "skew": 2.0})
    assert max(c.weight or 0.0 for c in private.clients) == pytest.approx(1.1 / 4)


def test_an_update_that_is_not_finite_counts_as_zero():
    clipped, norm = updates.to_norm([np.array([1.0, np.inf]), np.array([2.0])], 1.0)
    assert norm == math.inf
    assert not any(array.any() for array in clipped)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_that_is_none_is_rejected(value):
    adaptive, free = runs(privacy={"adaptive_clip": 0.5})
    assert updates.clip(adaptive, {}) == adaptive.clip
    assert updates.clip(free, {}) is None
    with pytest.raises(RejectedError, match="greater than 0"):
        updates.clip(adaptive, {updates.CLIP: value})
    fixed = adaptive.model_copy(update={"adaptive_clip": None})
    with pytest.raises(RejectedError, match="is fixed"):
        updates.clip(fixed, {updates.CLIP: 1.0})


CENTRAL = {"epsilons": [2.0], "unit": "client", "trust": "central"}
SHARED = {**CENTRAL, "trust": "secure-aggregation"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"privacy": {**CENTRAL, "trust": "local"}}, r"unit = 'client': needs privacy.trust = 'central'"),
        ({"privacy": SHARED, "participation": HALF}, r"kind = 'poisson': .* sampling amplifies nothing"),
        (
            {"privacy": SHARED, "participation": {"kind": "availability", "availability": {"*": 0.5}}},
            r"kind = 'availability': not with",
        ),
        (
            {"privacy": {"epsilons": [2.0]}, "participation": HALF},
            r"kind = 'poisson': needs privacy.unit = 'client'",
        ),
        ({"privacy": {"epsilons": [2.0], "adaptive_clip": 0.5}}, r"adaptive_clip = 0.5: needs privacy.unit"),
        ({"privacy": {"epsilons": [2.0], "weight_cap": 2.0}}, r"weight_cap = 2: needs privacy.unit"),
        ({"privacy": {**CENTRAL, "epsilon_factor": {"Female": 0.5}}}, r"epsilon_factor: not with"),
        ({"privacy": CENTRAL, "participation": {"kind": "poisson"}}, r"rate: required by kind = 'poisson'"),
        ({"privacy": CENTRAL, "participation": {**HALF, "seed": 1}}, r"seed: not with kind = 'poisson'"),
        ({"privacy": CENTRAL, "training": {"on_failure": "skip"}}, r"on_failure = 'skip': must be 'abort'"),
        ({"privacy": CENTRAL, "personal": {"kind": "mr-mtl", "strength": 0.1}}, r"trust.*must be 'local'"),
        ({"privacy": CENTRAL, "calibration": {}}, r"trust.*must be 'local'"),
    ],
    ids=str,
)
def test_combinations_without_sense_are_one_line(changes, reason):
    with pytest.raises(ScenarioError, match=reason) as caught:
        scenario(FEDAVG, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("noise-fair", "depend on what single clients report"),
        ("term", "needs each client's own mean_loss"),
        ("fairfed", "depend on what single clients report"),
    ],
)
def test_strategies_that_need_reports_or_statistics_are_refused(name, reason):
    with pytest.raises(ScenarioError, match=reason):
        check(scenario({"name": name}, privacy=CENTRAL), "x.toml")


def test_too_many_colluders_are_refused():
    with pytest.raises(ScenarioError, match="must be less than the 3 clients of a round"):
        runs("secure-aggregation", privacy={"colluding": 3}, participation=SOME)


def test_a_run_whose_noise_is_too_small_is_not_valid():
    private, _ = runs("secure-aggregation")
    assert Run.from_json(private.to_json()) == private
    less = tuple(c.model_copy(update={"noise_share": c.added_noise / 2}) for c in private.clients)
    for change in (
        {"clients": less},
        {"clients": tuple(c.model_copy(update={"weight": 0.5}) for c in private.clients)},
        {"unit": "record"},
        {"trust": "local"},
        {"trust": "central"},
        {"colluding": 1},
        {"adaptive_clip": 0.5},
    ):
        with pytest.raises(ValueError, match=r"noise_share|weight|unit|step"):
            Run.from_json(private.model_copy(update=change).to_json())


def test_records_as_the_unit_leave_no_trace():
    text = planned(FEDAVG, privacy={"unit": "record"}).runs[0].to_json()
    assert not any(word in text for word in ("unit", "adaptive_clip", "weight_cap", '"rate":'))
    assert "weight_cap" not in scenario(FEDAVG).model_dump_json()


def test_an_audit_refuses_clients_as_the_unit():
    overrides = ["privacy.trust='central'", "privacy.unit='client'"]
    with pytest.raises(ScenarioError, match=r"privacy.unit = 'client': an audit attacks single records"):
        prepare("adult-race", overrides, "0:4")


def test_the_reserved_instruction_is_in_the_message_config_only_if_the_clip_adapts():
    private, _ = runs(privacy={"adaptive_clip": 0.5})
    sent: list[ConfigRecord] = []

    class Tap(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            listed = list(messages)
            sent.extend(r for m in listed for r in m.content.config_records.values())
            return super().send_and_receive(listed, timeout=timeout)

    tables = federate(Tap(private), private)
    clips = {r[updates.CLIP] for r in sent}
    assert clips == set(tables["rounds"]["update_clip"])

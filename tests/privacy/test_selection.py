"""The price of a choice of constants: distributions, budgets, ledgers and plans."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedtoll.privacy import accounting, selection
from fedtoll.privacy.accounting import Event
from fedtoll.privacy.breakdown import events_of, spending
from fedtoll.privacy.ledger import CHOICE, DP_SGD, Ledger, owed
from fedtoll.privacy.selection import Charge, Training
from fedtoll.scenarios.choice import Choice, Distribution, Poisson, Tried, TruncatedNegativeBinomial, seeds_of
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import Candidates, plan
from fedtoll.server.trainer import simulate
from tests.server.federation import FEDAVG, TERM, scenario

DELTA = 1e-5
EIGHT = TruncatedNegativeBinomial.with_expected(8.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Remember no price and no noise."""
    monkeypatch.setattr("fedtoll.privacy.calibration_cache.cache_folder", lambda: tmp_path)
    selection._base_budget.cache_clear()
    return tmp_path / "budget"


# How many candidates.


@pytest.mark.parametrize("eta", [-0.5, 0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("mean", [1.2, 8.0, 300.0])
def test_a_mean_gives_the_distribution(eta, mean):
    tries = TruncatedNegativeBinomial.with_expected(mean, eta)
    assert tries.expected == pytest.approx(mean, rel=1e-9)
    assert tries.expected >= mean * (1 - 1e-12)


@pytest.mark.parametrize(
    "tries", [EIGHT, TruncatedNegativeBinomial(eta=-0.5, gamma=0.01), Poisson(mean=4.0), Poisson(mean=500.0)]
)
def test_numbers_of_candidates_are_drawn_with_their_mean(tries):
    rng = np.random.default_rng(0)
    drawn = np.array([tries.draw(rng) for _ in range(4000)])
    assert drawn.min() >= (0 if tries.kind == "poisson" else 1)
    assert drawn.mean() == pytest.approx(tries.expected, abs=4 * drawn.std() / math.sqrt(4000))


def test_a_uniform_number_next_to_one_ends():
    class Last:
        def random(self) -> float:
            return float(np.nextafter(1.0, 0.0))

    for tries in (EIGHT, TruncatedNegativeBinomial(eta=10.0, gamma=1e-3), Poisson(mean=500.0)):
        assert tries.expected < tries.draw(Last()) < 1e5  # type: ignore[arg-type]


def test_no_two_draws_share_a_seed():
    drawn = [seeds_of((1000, 1001, 1002), draw) for draw in range(200)]
    assert len(set(itertools.chain(*drawn))) == 600


# The price.


def test_the_price_grows_with_candidates_trainings_and_shape():
    def price(tries: Distribution, trainings: int = 1) -> float:
        return selection.epsilon(Charge(tries, trainings, (Training(Event(3.0, 0.02, 300)),)), DELTA)

    for kind in (TruncatedNegativeBinomial.with_expected, lambda mean: Poisson(mean=mean)):
        assert price(kind(2.0)) < price(kind(8.0)) < price(kind(50.0))
        assert price(kind(8.0)) < price(kind(8.0), 2) < price(kind(8.0), 5)
    etas = [price(TruncatedNegativeBinomial.with_expected(8.0, eta)) for eta in (-0.5, 0.0, 1.0, 3.0)]
    assert etas == sorted(etas)


def test_the_most_costly_candidate_counts_whoever_wins():
    cheap, dear = (Training(Event(z, 0.02, 300), (Event(100.0, 1.0, n),)) for z, n in ((3.0, 10), (2.0, 30)))
    for a, b in ((cheap, dear), (dear, cheap)):
        both, alone = Charge(EIGHT, 2, (a, b)), Charge(EIGHT, 2, (dear,))
        assert selection.epsilon(both, DELTA) == selection.epsilon(alone, DELTA)
    early = [
        selection.epsilon(Charge(EIGHT, 2, (cheap, dear)), DELTA, n, cheap.statistics) for n in (0, 30, 300)
    ]
    assert early == sorted(early)
    choice_alone = selection.epsilon(Charge(EIGHT, 2, (dear,)), DELTA, 0, ())
    assert choice_alone < early[0]
    silent = Training(Event(2.0, 0.02, 300))
    assert selection.epsilon(Charge(EIGHT, 2, (silent, dear)), DELTA, 300, ()) == selection.epsilon(
        Charge(EIGHT, 2, (dear,)), DELTA
    )


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "trainings", "tries"),
    [
        (1.0, 2, EIGHT),
        *(
            pytest.param(target, trainings, tries, marks=SLOW)
            for target in (0.3, 8.0)
            for trainings in (1, 3)
            for tries in (EIGHT, Poisson(mean=4.0))
        ),
    ],
    ids=str,
)
def test_the_base_budget_is_the_largest(target, trainings, tries, cache):
    schedules: list[Any] = [(0.02, 300, ()), (0.04, 100, (Event(300.0, 1.0, 10),))]

    def spent(base: float) -> float:
        trained = [Training(Event(selection.calibrated(base, s, DELTA), s[0], s[1]), s[2]) for s in schedules]
        return selection.epsilon(Charge(tries, trainings, tuple(trained)), DELTA)

    settings: dict[str, Any] = {"delta": DELTA, "trainings": trainings, "distribution": tries}
    base = selection.base_budget(target, schedules, **settings)
    assert spent(base) <= target < spent(base * 1.0005)
    assert base == float(f"{base:.5g}")
    assert base == selection.base_budget(target, schedules[::-1], **settings)
    selection._base_budget.cache_clear()
    for file in cache.iterdir():  # a cached price that is too high is not used
        content = json.loads(file.read_text())
        if content["key"][0] == "choice":
            file.write_text(json.dumps({**content, "noise_multiplier": 2 * base}))
    assert base == selection.base_budget(target, schedules, **settings)


@pytest.mark.parametrize(
    ("target", "statistics", "words"),
    [
        (0.005, (), r"^privacy.epsilons: ε = 0.005 cannot pay .* δ = 1e-05: .* the choice spends 0\.0\d+$"),
        (1.0, (Event(20.0, 1.0, 300),), r"^privacy.epsilons: ε = 1 cannot .* with its statistics spends \d"),
    ],
)
def test_a_budget_that_cannot_pay_for_the_choice_is_refused_in_one_line(target, statistics, words):
    with pytest.raises(ScenarioError, match=words):
        selection.base_budget(target, [(0.02, 300, statistics)], delta=DELTA, trainings=2, distribution=EIGHT)


# A run with a choice.


def chosen(
    strategy: dict[str, Any] = TERM,
    epsilon: float = 2.0,
    sizes: bool = False,
    charged: bool = True,
    **changes: Any,
) -> Run:
    """Return a run whose constants come from three candidates with other rates, rounds and statistics."""
    if sizes:
        changes["training"] = {"sampling_rate": None, "batch_size": 64}
    privacy = {"epsilons": [epsilon], "accountant": "rdp", **changes.pop("privacy", {})}
    stated = scenario(strategy, privacy=privacy, **changes)
    training, spec = stated.training, stated.strategies[0]
    more = {"rounds": 3} | ({"batch_size": 128} if sizes else {"sampling_rate": 0.02})
    other = training.model_copy(update=more)
    same = training.model_copy(update={"learning_rate": 0.1})
    grid = ((training, spec), (same, spec), (other, spec))
    (run,) = plan(stated, "sex.toml", choice=Candidates(EIGHT, 2, grid) if charged else None).runs
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        (FEDAVG, {}),
        (FEDAVG, {"sizes": True}),
        (TERM, {}),
        (TERM, {"sizes": True}),
        (TERM, {"statistics": {"budget_share": 0.2}}),
    ],
)
def test_every_client_spends_the_stated_total(strategy, options):
    run = chosen(strategy, **options)
    assert run.choice is not None
    assert len(run.choice.others) == (3 if options.get("sizes") else 1)
    free = chosen(strategy, charged=False, **options)
    for client in run.clients:
        (tried,) = run.choice.others_of(client.id)
        assert tried.steps == 6
        ledger = Ledger.of(run)
        for round in range(1, run.rounds + 1):
            ledger.charge(owed(run, client, round))
        assert ledger.releases_of(client.id)[0].what == CHOICE
        spent = ledger.epsilon(client.id)
        assert 0.999 * run.epsilon < spent <= run.epsilon
        charge = selection.charge_of(run, client)
        assert charge is not None
        assert spent == selection.epsilon(charge, DELTA)
        bases = [accounting.epsilon(candidate.events, DELTA, "rdp") for candidate in charge.candidates]
        assert max(bases) == pytest.approx(min(bases), rel=1e-3)
        assert client.noise_multiplier > 1.1 * free.clients[client.id].noise_multiplier


@pytest.mark.slow
def test_the_run_keeps_its_json_and_hash_without_a_choice_and_survives_json_with_one():
    run = chosen()
    assert run.choice is not None
    assert Run.from_json(run.to_json()) == run
    free = run.model_copy(update={"choice": None})
    assert "choice" not in json.loads(free.to_json())
    other = run.model_copy(update={"choice": run.choice.model_copy(update={"trainings": 3})})
    assert len({run.hash, free.hash, other.hash}) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accountant": "prv"}, "only dp-sgd under the accountant 'rdp'"),
        ({"accountant": "pld"}, "only dp-sgd under the accountant 'rdp'"),
        ({"choice": {"others": [[], []]}}, "not one entry for each of 3 clients"),
        ({"choice": {"distribution": {"kind": "poisson", "mean": 0.5}}}, "greater than or equal to 1"),
        ({"choice": {"trainings": 0}}, "greater than or equal to 1"),
    ],
)
def test_a_run_with_an_impossible_choice_is_refused(change, words):
    content = json.loads(chosen(FEDAVG).to_json())
    choice = {**content["choice"], **change.get("choice", {})}
    with pytest.raises(ValueError, match=words):
        Run.from_json(json.dumps({**content, **change, "choice": choice}))


def test_statistics_of_a_candidate_have_noise():
    with pytest.raises(ValueError, match="statistics need noise"):
        Tried(sampling_rate=0.1, noise_multiplier=1.0, steps=3, statistic_releases=4)
    assert Choice(distribution=EIGHT, trainings=1).others_of(7) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": {"accountant": "prv"}}, "privacy.accountant = 'prv': cannot charge .*; use 'rdp'"),
        ({"privacy": {"accountant": "pld"}}, "privacy.accountant = 'pld': cannot charge .*; use 'rdp'"),
        (
            {"partition": {"clients": {"Male": 2, "Female": 2}, "copies": 2}},
            "partition.copies = 2: .* only with copies = 1",
        ),
        ({"privacy": {"delta": 1e-9}, "epsilon": 0.01}, "ε = 0.01 cannot pay for the choice"),
    ],
)
def test_what_cannot_be_charged_is_refused_in_one_line(changes, words):
    with pytest.raises(ScenarioError, match=f"^sex.toml: .*{words}") as caught:
        chosen(FEDAVG, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_references_without_noise_choose_for_nothing():
    stated = scenario(FEDAVG, privacy={"epsilons": ["inf", "clip-only", 2.0], "accountant": "rdp"})
    grid = ((stated.training, stated.strategies[0]),)
    runs = plan(stated, "sex.toml", choice=Candidates(EIGHT, 1, grid)).runs
    assert [run.choice is not None for run in runs] == [False, False, True]
    assert runs[:2] == plan(stated, "sex.toml").runs[:2]


@pytest.mark.slow
def test_tables_and_parts_say_what_the_choice_costs():
    run = chosen(TERM)
    ledger = simulate(run)["ledger"]
    first = ledger[ledger["round"] == 0]
    assert list(first["release"]) == [CHOICE] * 3
    assert list(first["count"]) == [1] * 3
    assert first[["sampling_rate", "noise_multiplier"]].isna().all(axis=None)
    for client in run.clients:
        charge = selection.charge_of(run, client)
        assert charge is not None
        rows = ledger[ledger["client"] == client.id].groupby("round")["epsilon_spent"].max()
        assert list(rows) == sorted(rows)
        account = spending(events_of(run, client), *run.guarantee, run.epsilon, charge)
        assert account["spent"] == rows[run.rounds]
        parts = {part["what"]: part for part in account["parts"]}
        assert list(parts) == [CHOICE, DP_SGD, *(s.name for s in run.statistics)]
        assert parts[CHOICE]["alone"] == rows[0]
        assert parts[CHOICE]["sampling_rate"] is None
        for what in (CHOICE, DP_SGD):
            assert 0 < parts[what]["adds"] < parts[what]["alone"] < account["spent"]
        more = selection.charge_of(run, client, sigma=2 * client.noise_multiplier)
        assert more is not None
        assert {t.steps.noise_multiplier for t in more.candidates} == {2 * client.noise_multiplier}


def test_a_ledger_that_does_not_know_the_choice_reports_infinity():
    run = chosen(FEDAVG)
    client = run.clients[0]
    ledger = Ledger(run.delta, run.accountant)
    ledger.charge(owed(run, client, 1))
    assert ledger.epsilon(0) == math.inf
    twice = Ledger.of(run)
    for _ in range(2):
        twice.charge(owed(run, client, 1)[:1])
    once = Ledger.of(run)
    once.charge(owed(run, client, 1)[:1])
    assert once.epsilon(0) < twice.epsilon(0) < math.inf


class Loses(LocalGrid):
    """A Grid on which the first client never gets the messages of round 1."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        config: Any = sent[0].content.config_records.get("config", {"server-round": 0})
        return super().send_and_receive(sent[config["server-round"] == 1 :], timeout=timeout)


def test_a_client_that_missed_the_first_round_reports_the_choice_later():
    run = chosen(FEDAVG, training={"on_failure": "skip"})
    tables = federate(Loses(run), run)
    skipped = tables["clients"].query("skipped != ''")
    assert skipped[["round", "client"]].to_numpy().tolist() == [[1, 0]]
    assert (tables["ledger"].groupby("client")["epsilon_spent"].max() <= run.epsilon).all()

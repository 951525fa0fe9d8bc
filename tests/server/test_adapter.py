"""Strategies as Flower strategies: ours, Flower's own, and which of both are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fedtoll.privacy.update_noise import noise_variance
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import StrategySpec
from fedtoll.server.evaluate import HeldOut
from fedtoll.server.plan import strategy_plan
from fedtoll.server.trainer import simulate
from fedtoll.strategies.base import Arrays, Report, State, Strategy, Weights, sizes
from fedtoll.strategies.fedavg import FedAvg
from tests.server.federation import FEDAVG, TERM, single_run, with_strategy

FLOWER = "flwr.serverapp.strategy:"


@pytest.fixture(scope="module")
def plain() -> Run:
    return single_run(FEDAVG)


def ending(run: Run, cls: type[Strategy], **parameters: Any) -> str:
    """Return the error that ends a run under one of this file's strategies."""
    with pytest.raises(RunError) as caught:
        simulate(with_strategy(run, f"{__name__}:{cls.__name__}", **parameters))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Ours: the weights.


@dataclass(frozen=True)
class Weighs(Strategy):
    """Returns weights of a given kind from the second round on."""

    kind: str = "good"

    def weigh(self, reports: Any, state: State) -> tuple[Any, State]:
        good = sizes(reports)
        round = state.get("round", 1)
        bad = {
            "good": good,
            "negative": np.array([1.5, 0.0, -0.5]),
            "nan": np.array([0.5, 0.5, math.nan]),
            "infinite": np.array([math.inf, 0.0, 0.0]),
            "sum": good * 1.000001,
            "zero": np.zeros(3),
            "too few": np.array([0.5, 0.5]),
            "too many": np.full(4, 0.25),
            "column": good[:, None],
            "scalar": np.float64(1.0),
            "list": good.tolist(),
            "none": None,
        }
        return (good if round == 1 else bad[self.kind]), {"round": round + 1}


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("negative", "-0.5 is negative"),
        ("nan", "not finite"),
        ("infinite", "not finite"),
        ("sum", "sum 1 instead of 1 (+1e-06)"),
        ("zero", "sum 0 instead of 1 (-1)"),
        ("too few", "shape (2,) instead of (3,)"),
        ("too many", "shape (4,) instead of (3,)"),
        ("column", "shape (3, 1) instead of (3,)"),
        ("scalar", "a float64 instead of an array"),
        ("list", "a list instead of an array"),
        ("none", "a NoneType instead of an array"),
    ],
)
def test_weights_off_the_simplex_end_the_run(plain, kind, problem):
    line = ending(plain, Weighs, kind=kind)
    assert line == f"round 2: the weights of Weighs are not on the simplex: {problem}"


def test_weights_on_the_simplex_up_to_rounding_do_not(plain):
    good = simulate(with_strategy(plain, f"{__name__}:Weighs", kind="good"))
    assert good["groups"].equals(simulate(plain)["groups"])


@dataclass(frozen=True)
class Forgets(Strategy):
    """Returns weights without state."""

    def weigh(self, reports: Any, state: State) -> Any:
        return sizes(reports)


def test_weights_without_state_are_one_line(plain):
    assert (
        ending(plain, Forgets) == "round 1: Forgets: weigh must return (weights, state), but returned ndarray"
    )


# Ours: the model.


@dataclass(frozen=True)
class Makes(FedAvg):
    """Returns a model of a given kind."""

    kind: str = "good"
    where: str = "combine"

    def combine(
        self, params: Arrays, reports: Any, weights: Weights, state: State
    ) -> tuple[Any, State, Weights]:
        model, state, coefficients = super().combine(params, reports, weights, state)
        if self.kind == "coefficients":
            return model, state, coefficients[:2]
        if self.kind == "no coefficients":
            return model, state, None  # type: ignore[return-value]
        return (self._spoil(model) if self.where == "combine" else model), state, coefficients

    def output(self, params: Arrays, state: State) -> Any:
        return self._spoil(params) if self.where == "output" else params

    def _spoil(self, model: Arrays) -> Any:
        weight, bias = model
        return {
            "nan": (weight * math.nan, bias),
            "overflow": (weight, bias.astype(np.float64) + 1e300),
            "shape": (weight.T, bias),
            "too few": (weight,),
            "none": (),
            "float64": (weight.astype(np.float64), bias.astype(np.float64)),
            "lists": (weight.tolist(), bias.tolist()),
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("nan", "that is not finite"),
        ("overflow", "that is not finite"),
        ("shape", "of shapes [(91, 1), (1,)] instead of [(1, 91), (1,)]"),
        ("too few", "of shapes [(1, 91)] instead of [(1, 91), (1,)]"),
        ("none", "of shapes [] instead of [(1, 91), (1,)]"),
    ],
)
def test_a_model_of_another_form_or_not_finite_ends_the_run(plain, kind, problem):
    assert ending(plain, Makes, kind=kind) == f"round 1: Makes returned a model {problem}"
    assert ending(plain, Makes, kind=kind, where="output") == f"Makes.output returned a model {problem}"


@pytest.mark.parametrize("where", ["combine", "output"])
@pytest.mark.parametrize("kind", ["float64", "lists"])
def test_a_model_in_another_precision_is_taken_in_the_runs(plain, kind, where):
    tables = simulate(with_strategy(plain, f"{__name__}:Makes", kind=kind, where=where))
    assert tables["predictions"].equals(simulate(plain)["predictions"])


def test_every_update_has_a_coefficient(plain):
    line = ending(plain, Makes, kind="coefficients")
    assert line == "round 1: Makes did not return one coefficient per client"
    line = ending(plain, Makes, kind="no coefficients")
    assert line.startswith("round 1: combine of Makes returned None for the coefficients; return one number")


@dataclass(frozen=True)
class Commands(FedAvg):
    """Sends clients one more instruction."""

    word: str = "run"

    def instructions(self, round: int, state: State) -> dict[str, float]:
        return {self.word: 0.5}


@pytest.mark.parametrize("word", ["run", "server-round"])
def test_a_strategy_may_not_change_the_run_or_the_round(plain, word):
    assert (
        ending(plain, Commands, word=word)
        == f"round 1: Commands may not send the reserved instruction {word!r}"
    )


def test_an_unknown_instruction_is_refused_by_the_client(plain):
    line = ending(plain, Commands, word="sigma")
    assert line.startswith("round 1, client 0 (Male): the client rejects the message: RejectedError: instr")
    assert line.endswith(": instruction 'sigma' is unknown to this client")


# Ours: what a report says.

REPORTS: list[list[Report]] = []


@dataclass(frozen=True)
class Keeps(FedAvg):
    """Stores its reports, and counts in its state how many it has seen."""

    def weigh(self, reports: Any, state: State) -> tuple[Weights, State]:
        REPORTS.append(list(reports))
        assert state.get("rounds", 0) == len(REPORTS) - 1
        return sizes(reports), {"rounds": len(REPORTS)}


def test_a_report_is_the_update_what_was_spent_and_its_noise():
    REPORTS.clear()
    run = with_strategy(single_run(FEDAVG, 2.0), f"{__name__}:Keeps")
    tables = simulate(run)
    spent = tables["ledger"].set_index(["client", "round"])["epsilon_spent"]
    for round, reports in enumerate(REPORTS, 1):
        for report, plan in zip(reports, run.clients, strict=True):
            sigma_scale = run.learning_rate * plan.noise_multiplier * (run.clip or 0) / plan.batch_size
            assert report.noise_variance == pytest.approx(plan.steps * sigma_scale**2, rel=1e-12)
            assert report.epsilon == spent[plan.id, round]
            assert all(u.dtype == np.float64 for u in report.update)
    assert len(REPORTS) == run.rounds
    end = []
    for i in (0, 1):  # logistic regression starts at 0
        end.append(sum(w * r.update[i] for rs in REPORTS for w, r in zip(sizes(rs), rs, strict=True)))
    scores = HeldOut(run).probabilities(tuple(end))[:, 1]
    np.testing.assert_allclose(scores, tables["predictions"]["score"], rtol=1e-5)


def test_the_noise_that_reaches_the_model_is_recorded():
    run = single_run(TERM, 2.0)
    tables = simulate(run)
    clients, rounds = tables["clients"], tables["rounds"]
    assert np.allclose(clients["weight"], clients["coefficient"])
    for t, recorded in rounds.set_index("round").iterrows():
        rows = clients[clients["round"] == t]
        noise = (rows["coefficient"] ** 2 * rows["noise_variance"]).sum()
        assert recorded["effective_noise"] == pytest.approx(noise)
        assert recorded["replies"] == 3
    assert (simulate(single_run(TERM))["rounds"]["effective_noise"] == 0).all()


# Flower's own.


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("FedAvg", {}),
        ("FedAvgM", {"server_momentum": 0.9, "server_learning_rate": 0.5}),
        ("FedAdam", {"eta": 0.05}),
        ("FedAdagrad", {}),
        ("FedProx", {"proximal_mu": 0.1}),
        ("FedYogi", {"eta": 0.01, "beta_1": 0.9}),
        ("FedMedian", {}),
        ("FedTrimmedAvg", {"beta": 0.34}),
        ("Krum", {"num_malicious_nodes": 1}),
        ("MultiKrum", {"num_nodes_to_select": 2}),
        ("Bulyan", {}),
    ],
)
def test_flowers_own_strategies_run_unchanged(name, parameters):
    run = single_run({"name": FLOWER + name, **parameters}, 2.0)
    tables = simulate(run)
    groups = tables["groups"]
    first, last = (groups[groups["round"] == t].reset_index() for t in (1, 2))
    assert last["auroc"].iloc[-1] > 0.6
    assert (first["log_loss"] != last["log_loss"]).all()
    assert tables["clients"]["weight"].isna().all()  # Flower's strategies do not report weights
    assert tables["rounds"]["effective_noise"].isna().all()
    assert len(tables["ledger"]) == 3 * run.rounds


def test_flowers_fedavg_is_ours_up_to_rounding():
    flower, ours = simulate(single_run({"name": FLOWER + "FedAvg"}, 2.0)), simulate(single_run(FEDAVG, 2.0))
    np.testing.assert_allclose(
        flower["predictions"]["score"], ours["predictions"]["score"], rtol=0, atol=1e-5
    )
    assert flower["ledger"].equals(ours["ledger"])


def test_flowers_fedprox_reaches_the_clients():
    average = simulate(single_run({"name": FLOWER + "FedAvg"}))["predictions"]["score"]
    free, held = (
        simulate(single_run({"name": FLOWER + "FedProx", "proximal_mu": mu}))["predictions"]["score"]
        for mu in (0.0, 0.9)
    )
    assert free.equals(average)
    assert (held - 0.5).abs().mean() < (free - 0.5).abs().mean()  # pulled back to where all scores are .5


def test_a_strategy_of_flowers_that_makes_no_model_ends_the_run():
    """Flower would continue with the old model silently."""
    run = single_run({"name": FLOWER + "Bulyan", "num_malicious_nodes": 1})
    with pytest.raises(RunError, match=r"^round 1: Bulyan returned no model"):
        simulate(run)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_strategy_of_flowers_that_makes_a_model_of_nan_ends_the_run():
    run = single_run({"name": FLOWER + "FedAvgM", "server_learning_rate": 1e300})
    with pytest.raises(RunError, match=r"^round 1: FedAvgM returned a model that is not finite$"):
        simulate(run)


@pytest.mark.parametrize(
    ("name", "parameters", "line"),
    [
        ("QFedAvg", {"client_learning_rate": 0.1}, "QFedAvg cannot run here: it reads a training loss"),
        ("FedXgbBagging", {}, "FedXgbBagging cannot run here: it aggregates trees"),
        ("FedXgbCyclic", {}, "FedXgbCyclic cannot run here: it aggregates trees"),
        (
            "DifferentialPrivacyServerSideFixedClipping",
            {"noise_multiplier": 1.0},
            "DifferentialPrivacyServerSideFixedClipping cannot run here: it wraps another strategy",
        ),
        ("DifferentialPrivacyClientSideAdaptiveClipping", {}, "cannot run here: it wraps another strategy"),
        ("Strategy", {}, "Strategy cannot run here: it has no parameter 'fraction_train'"),
        ("Result", {}, "is neither a fedtoll nor a Flower strategy"),
        ("FedAdm", {}, "has no class 'FedAdm'; did you mean 'FedAdam'?"),
        ("FedAdam", {"etta": 0.1}, "FedAdam: unknown parameter 'etta'; did you mean 'eta'?"),
        (
            "FedAdam",
            {"fraction_train": 0.5},
            "FedAdam: fraction_train = 0.5: state it for all strategies, as [participation]",
        ),
        ("FedAvg", {"min_train_nodes": 1}, "FedAvg: unknown parameter 'min_train_nodes'"),
        ("FedAvg", {"weighted_by_key": "mean_loss"}, "FedAvg: unknown parameter 'weighted_by_key'"),
        ("FedAdam", {"eta": "x"}, "FedAdam: eta = 'x': must be a number such as 0.1"),
        ("FedAdam", {"eta": math.nan}, "FedAdam: eta = nan: must be finite"),
        ("Krum", {"num_malicious_nodes": 0.5}, "Krum: num_malicious_nodes = 0.5: must be a number such as 0"),
        ("FedTrimmedAvg", {"beta": 0.7}, "FedTrimmedAvg: `beta` must be in the range [0, 0.5)."),
    ],
)
def test_what_cannot_run_is_refused_before_it_runs(name, parameters, line):
    with pytest.raises(ScenarioError) as caught:
        strategy_plan(StrategySpec(name=FLOWER + name, **parameters))
    assert "\n" not in str(caught.value)
    assert line in str(caught.value)


def test_an_integer_is_accepted_for_a_float():
    assert strategy_plan(StrategySpec(name=FLOWER + "FedAdam", eta=1)).parameters == {"eta": 1}


MINE = """
from flwr.serverapp.strategy import FedAvg, QFedAvg

class Half(FedAvg):
    def __init__(self, share, **kwargs):
        super().__init__(**kwargs)
        self.share = share

    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, replies)

class Some(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        return list(super().configure_train(server_round, arrays, config, grid))[:2]

class Asks(FedAvg):
    def configure_evaluate(self, server_round, arrays, config, grid):
        self.fraction_evaluate, self.min_evaluate_nodes = 1.0, 3
        return super().configure_evaluate(server_round, arrays, config, grid)

class Fair(QFedAvg):
    pass

class Fails(FedAvg):
    def __init__(self, **kwargs):
        {}["x"]
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return lambda name: f"{tmp_path / 'mine.py'}:{name}"


def test_a_flower_strategy_of_the_users_own_runs(mine):
    run = single_run({"name": mine("Half"), "share": 0.5})
    assert run.strategy.parameters == {"share": 0.5}
    assert len(run.strategy.digest) == 64
    flowers = simulate(single_run({"name": FLOWER + "FedAvg"}))
    assert simulate(run)["predictions"].equals(flowers["predictions"])


@pytest.mark.parametrize(
    ("name", "parameters", "line"),
    [
        ("Half", {}, "Half: .*missing.*'share'"),
        ("Half", {"shre": 1}, "Half: unknown parameter 'shre'; did you mean 'share'"),
        ("Fair", {"client_learning_rate": 0.1}, "Fair cannot run here: it reads a training loss"),
        ("Fails", {}, "Fails: cannot be instantiated: KeyError"),
    ],
)
def test_a_flower_strategy_of_the_users_own_is_checked_as_flowers(mine, name, parameters, line):
    with pytest.raises(ScenarioError, match=line):
        strategy_plan(StrategySpec(name=mine(name), **parameters))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Some", r"^round 1, client \d \(\w+\): the strategy leaves it out"),
        ("Asks", r"^round 1, client \d \(\w+\): a 'evaluate' message would return numbers without noise$"),
    ],
)
def test_a_flower_strategy_can_neither_leave_out_nor_evaluate(mine, name, line):
    with pytest.raises(RunError, match=line):
        simulate(single_run({"name": mine(name)}))


def test_the_noise_of_an_update_is_that_of_its_steps():
    run = single_run(FEDAVG, 2.0, training={"local_steps": 3})
    for plan in run.clients:
        v = noise_variance(run, plan)
        assert v == pytest.approx(3 * (1.0 * plan.noise_multiplier * 1.0 / plan.batch_size) ** 2, rel=1e-12)
    for epsilon in ("clip-only", "inf"):
        run = single_run(FEDAVG, epsilon)
        assert noise_variance(run, run.clients[0]) == 0

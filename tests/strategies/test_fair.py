"""The group-fair strategies FedMinMax and FairFed, compared with their equations."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from fairlearn.metrics import equal_opportunity_difference
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtoll.scenarios.statistics import Estimate, GroupConfusion, GroupLoss
from fedtoll.strategies.afl import AFL
from fedtoll.strategies.base import Report, remember, sizes
from fedtoll.strategies.fairfed import CLEAR, FairFed, gap
from fedtoll.strategies.fedminmax import HEAVIEST, FedMinMax
from tests.strategies.reports import answering


def project(point):
    """Project onto the simplex by bisection, independently of the implementation under test."""
    low, high = -point.max(), 1 - point.min()
    for _ in range(200):
        shift = (low + high) / 2
        low, high = (low, shift) if np.maximum(point + shift, 0).sum() > 1 else (shift, high)
    return np.maximum(point + low, 0)


losses = partial(answering, "group_loss")


def confusions(counts_KGYY, sd=0.0, size=None):
    size = np.sum(counts_KGYY, axis=(1, 2, 3)) if size is None else size
    return answering("group_confusion", size, counts_KGYY, sd=sd)


def declared(sizes_, groups, mean_losses, clip=1.0):
    """Return statistics of clients with one group each; the cells of other groups are exactly 0."""
    names = sorted(set(groups), reverse=True)  # the statistic's order is not that of the names
    cells = np.zeros((len(sizes_), len(names), 2))
    for k, (n, g, f) in enumerate(zip(sizes_, groups, mean_losses, strict=True)):
        cells[k, names.index(g)] = n * f / clip, n
    return losses(sizes_, cells, groups)


def test_they_ask_for_their_statistic():
    assert FedMinMax(clip=2.0).requests == (GroupLoss(2.0),)
    assert FairFed().requests == (GroupConfusion(),)


@pytest.mark.parametrize("call", [lambda: FedMinMax(gamma=-1.0), lambda: FairFed(beta=-1.0)])
def test_negative_steps_are_refused(call):
    with pytest.raises(ValueError, match=r"= -1\.0: must be 0 or greater"):
        call()


noisy = st.builds(
    lambda seed, clients, scale, sd, known: (seed, clients, scale, sd, known),
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.sampled_from([1, 30, 10**4]),
    st.sampled_from([0.0, 1.0, 500.0]),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(noisy, st.sampled_from([FedMinMax(gamma=3.0), FairFed(beta=5.0)]))
def test_whatever_is_released_weights_are_on_the_simplex_and_follow_the_clients(case, strategy):
    seed, clients, scale, sd, known = case
    rng = np.random.default_rng(seed)

    def round_():
        names = [f"g{k % 3}" if known else "" for k in range(clients)]
        value = rng.integers(0, scale, (clients, 3, 2, 2)) + sd * rng.normal(size=(clients, 3, 2, 2))
        return [
            Report(
                k,
                scale + k,
                names[k],
                (),
                {
                    "group_loss": Estimate(value[k, :, 0], np.full((3, 2), sd)),
                    "group_confusion": Estimate(value[k], np.full((3, 2, 2), sd)),
                },
            )
            for k in range(clients)
        ]

    rounds = [round_() for _ in range(3)]
    turned = rng.permutation(clients)
    state, other = strategy.init(rounds[0]), strategy.init([rounds[0][i] for i in turned])
    for reports in rounds:
        weights, state = strategy.weigh(reports, state)
        again, other = strategy.weigh([reports[i] for i in turned], other)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(again, weights[turned], atol=1e-9)
        for w in strategy.instructions(2, state).get("group_weights", []):
            assert 0 <= w <= HEAVIEST


# FedMinMax


def test_with_one_client_a_group_fedminmax_is_afl_over_clients():
    rng = np.random.default_rng(0)
    n, gamma, bound = np.array([600, 250, 100, 50]), 0.4, False
    groups = ["d", "b", "a", "c"]
    mixture = n / n.sum()
    strategy, afl = FedMinMax(gamma=gamma, clip=2.0), AFL(gamma=gamma, clip=2.0)
    state, afl_state = (s.init(declared(n, groups, n)) for s in (strategy, afl))
    for _ in range(8):
        f = rng.uniform(-0.3, 2, size=4)  # noise makes some of them negative
        reports = declared(n, groups, f, clip=2.0)
        weights, state = strategy.weigh(reports, state)
        np.testing.assert_allclose(weights, mixture, atol=1e-9)
        mixture = project(mixture + gamma * f)
        means = [Report(r.client, r.size, "", (), {"mean_loss": Estimate(f[r.client], 0.0)}) for r in reports]
        theirs, afl_state = afl.weigh(means, afl_state)
        np.testing.assert_allclose(weights, theirs, atol=1e-12)
        assert strategy.instructions(2, state) == {}
        bound |= (mixture == 0).any()
    assert bound  # the projection did take weight to 0


def test_several_clients_of_a_declared_group_share_its_weight_by_size():
    n, groups = [300, 100, 50, 50], ["white", "white", "other", "black"]
    f = np.array([0.2, 0.6, 0.9, 0.1])
    strategy = FedMinMax(gamma=0.5)
    reports = declared(n, groups, f)
    weights, state = strategy.weigh(reports, strategy.init(reports))
    mu = project(np.array([0.1 + 0.05, 0.1 + 0.45, 0.8 + 0.15]))  # black, other, white; white's loss is .3
    np.testing.assert_allclose(state["mu"], mu, atol=1e-9)
    np.testing.assert_allclose(weights, np.array(n) / 500, atol=1e-9)
    weights, _ = strategy.weigh(reports, state)
    np.testing.assert_allclose(weights, [0.75 * mu[2], 0.25 * mu[2], mu[1], mu[0]], atol=1e-9)


def test_without_a_step_fedminmax_is_fedavg():
    reports = declared([60, 30, 10], ["a", "b", "b"], [0.2, 0.9, 0.4])
    strategy = FedMinMax(gamma=0.0)
    np.testing.assert_allclose(strategy.weigh(reports, strategy.init(reports))[0], [0.6, 0.3, 0.1])

    rng = np.random.default_rng(3)
    state = strategy.init(losses([50, 50], np.zeros((2, 3, 2))))
    for _ in range(5):  # whatever the noise of the counts, every record counts once
        cells = rng.normal([[20, 30], [10, 15], [0, 1]], 20, size=(2, 3, 2))
        weights, state = strategy.weigh(losses([50, 50], cells, sd=20), state)
        np.testing.assert_allclose(weights, [0.5, 0.5])
        np.testing.assert_allclose(strategy.instructions(2, state)["group_weights"], [1, 1, 1])


def test_mixed_clients_receive_mu_over_rho_from_the_first_release_on():
    rng = np.random.default_rng(4)
    n_KG = np.array([[40, 10, 5], [0, 20, 25]])
    n, gamma, clip = n_KG.sum(axis=1), 0.3, 2.0
    rho = n_KG.sum(axis=0) / n_KG.sum()
    strategy, mu = FedMinMax(gamma=gamma, clip=clip), rho
    state = strategy.init(losses(n, np.zeros((2, 3, 2))))
    assert strategy.instructions(1, state) == {}
    for round in range(2, 7):
        f_KG = rng.uniform(0, 1, size=(2, 3))
        weights, state = strategy.weigh(losses(n, np.stack([n_KG * f_KG / clip, n_KG], axis=-1)), state)
        np.testing.assert_allclose(weights, n / n.sum())
        mu = project(mu + gamma * (n_KG * f_KG).sum(axis=0) / n_KG.sum(axis=0))
        told = strategy.instructions(round, state)
        assert list(told) == ["group_weights"]
        np.testing.assert_allclose(told["group_weights"], mu / rho, atol=1e-9)


def test_the_weight_of_a_group_that_is_not_there_goes_to_the_others_and_comes_back():
    n, groups = [300, 100, 50, 50], ["white", "white", "other", "black"]
    strategy = FedMinMax(gamma=0.5)
    reports = declared(n, groups, [0.2, 0.6, 0.9, 0.1])
    start = strategy.init(reports)
    weights, state = strategy.weigh([reports[k] for k in (0, 1, 3)], start)  # nobody of "other"
    np.testing.assert_allclose(weights, np.array([300, 100, 50]) / 450, atol=1e-9)
    black, white = 0.9 * project(np.array([0.1 + 0.05, 0.8 + 0.15]) / 0.9)  # the others move among themselves
    mu = np.array([black, 0.1, white])
    np.testing.assert_allclose(state["mu"], mu, atol=1e-9)
    weights, state = strategy.weigh(reports, state)
    np.testing.assert_allclose(weights, [0.75 * mu[2], 0.25 * mu[2], mu[1], mu[0]], atol=1e-9)
    mu = project(mu + 0.5 * np.array([0.1, 0.9, 0.3]))
    np.testing.assert_allclose(state["mu"], mu, atol=1e-9)
    # With one client of two the group is there, and that client has its weight.
    _, state = strategy.weigh(reports[1:], start)
    mu = project(np.array([0.1 + 0.05, 0.1 + 0.45, 0.8 + 0.3]))
    weights, _ = strategy.weigh(reports[1:], state)
    np.testing.assert_allclose(weights, [mu[2], mu[1], mu[0]], atol=1e-9)
    # Where all the weight is of those who are not there, the sizes weigh.
    alone = {**start, "mu": np.array([0.0, 5.0, 0.0])}
    np.testing.assert_allclose(strategy.weigh([reports[0], reports[3]], alone)[0], [6 / 7, 1 / 7])


def test_both_modes_take_the_same_step():
    rng = np.random.default_rng(5)
    group_N, client_N = rng.integers(0, 2, 90), rng.integers(0, 3, 90)
    gradient_N, loss_N = rng.normal(size=90), rng.uniform(size=90)
    strategy = FedMinMax(gamma=0.4)

    def cells(chosen):
        return [[loss_N[chosen & (group_N == g)].sum(), (chosen & (group_N == g)).sum()] for g in (0, 1)]

    held = [client_N == k for k in range(3)]
    reports = losses([int(h.sum()) for h in held], [cells(h) for h in held])
    weights, state = strategy.weigh(reports, strategy.init(reports))
    told = np.array(strategy.instructions(2, state)["group_weights"])
    mixed = weights @ [np.mean((told[group_N] * gradient_N)[h]) for h in held]

    held = [group_N == 0, (group_N == 1) & (client_N == 0), (group_N == 1) & (client_N > 0)]
    reports = losses([int(h.sum()) for h in held], [cells(h) for h in held], ["a", "b", "b"])
    _, state = strategy.weigh(reports, strategy.init(reports))
    weights, _ = strategy.weigh(reports, state)
    assert weights @ [gradient_N[h].mean() for h in held] == pytest.approx(mixed)


def test_the_noise_of_the_counts_averages_out():
    rng = np.random.default_rng(6)
    truth, sd = np.array([900.0, 80.0, 20.0]), 15.0
    strategy, errors = FedMinMax(gamma=0.0), []
    state = strategy.init(losses([1000], np.zeros((1, 3, 2))))
    for _ in range(400):
        cells = np.stack([0.5 * truth, truth], axis=-1)[None] + sd * rng.normal(size=(1, 3, 2))
        _, state = strategy.weigh(losses([1000], cells, sd=sd), state)
        errors.append(np.abs(state["share"] - truth / 1000).max())
    assert errors[0] > 0.005
    assert errors[-1] < 0.002


def test_a_count_is_not_taken_to_be_below_its_noise_nor_below_one():
    empty = [[[50.0, 100.0], [3.0, -70.0]]]
    _, state = FedMinMax(gamma=0.5).weigh(losses([100], empty, sd=20.0), {})
    rho = np.array([100, 20]) / 120
    np.testing.assert_allclose(state["share"], rho)
    np.testing.assert_allclose(state["mu"], project(rho + 0.5 * np.array([0.5, 3 / 20])), atol=1e-9)
    # Exact counts of a group that nobody has: finite, and capped once the others' weight is gone.
    strategy, state = FedMinMax(gamma=10.0), {}
    for _ in range(2):
        _, state = strategy.weigh(losses([500], [[[0.0, 499.0], [9.0, 0.0]]]), state)
    np.testing.assert_allclose(state["share"], [0.998, 0.002])
    np.testing.assert_allclose(strategy.instructions(3, state)["group_weights"], [0, HEAVIEST])


@pytest.mark.parametrize(("strategy", "gap"), [(FedMinMax(gamma=0.05), 0.01), (FedMinMax(gamma=0.0), 0.5)])
def test_fedminmax_evens_the_losses_of_groups_out(strategy, gap):
    centre, n = np.array([0.0, 1.0]), [90, 10]  # losses (w - 0)² and (w - 1)²: even at w = 1/2
    w, models = 0.0, []
    state = strategy.init(declared(n, ["a", "b"], [0, 0]))
    for _ in range(1500):
        p, state = strategy.weigh(declared(n, ["a", "b"], (w - centre) ** 2), state)
        w += p @ (-0.1 * 2 * (w - centre))
        models.append(w)
    w = np.mean(models[500:])
    found = abs((w - 0) ** 2 - (w - 1) ** 2)
    assert found < gap if strategy.gamma else found > gap


# FairFed


def test_fairfed_is_its_equation_for_two_groups():
    rng = np.random.default_rng(7)
    n, strategy = np.array([400, 300, 200, 100]), FairFed(beta=0.3)
    raw, state = n / n.sum(), strategy.init(confusions(np.zeros((4, 2, 2, 2)), size=n))

    def eod(c):
        return c[0, 1, 1] / c[0, 1].sum() - c[1, 1, 1] / c[1, 1].sum()

    for _ in range(3):
        counts = rng.integers(5, 20, size=(4, 2, 2, 2))
        counts[3, 1] = 0  # the last client has one group only
        right = (counts[:, :, 0, 0] + counts[:, :, 1, 1]).sum(axis=1)
        delta = np.array([abs(eod(counts.sum(axis=0)) - eod(c)) for c in counts[:3]] + [0.0])
        delta[3] = abs(right[3] / 100 - right.sum() / 1000)
        raw = raw - 0.3 * (delta - delta.mean())
        weights, state = strategy.weigh(confusions(counts, size=n), state)
        np.testing.assert_allclose(weights, np.maximum(raw, 0) / np.maximum(raw, 0).sum(), atol=1e-12)


def test_for_more_groups_the_gap_is_fairlearns():
    rng = np.random.default_rng(8)
    client, group = rng.integers(0, 4, 600), rng.integers(0, 3, 600)
    label, predicted = rng.integers(0, 2, 600), rng.integers(0, 2, 600)
    counts = np.zeros((4, 3, 2, 2))
    np.add.at(counts, (client, group, label, predicted), 1)

    def f(of):
        return equal_opportunity_difference(label[of], predicted[of], sensitive_features=group[of])

    delta = np.abs([f(client == k) - f(client >= 0) for k in range(4)])
    reports, strategy = confusions(counts), FairFed(beta=0.7)
    weights, _ = strategy.weigh(reports, strategy.init(reports))
    raw = sizes(reports) - 0.7 * (delta - delta.mean())
    assert (raw > 0).all()
    np.testing.assert_allclose(weights, raw, atol=1e-12)


def one_group_each():
    """Sizes .9 and .1, accuracies .9 and .7, one group each: the equal opportunity gap is undefined."""
    counts = np.zeros((2, 2, 2, 2))
    counts[0, 0] = [[400, 50], [40, 410]]
    counts[1, 1] = [[35, 15], [15, 35]]
    return confusions(counts)


def test_one_group_a_client_is_a_trap_for_the_minority():
    reports, strategy = one_group_each(), FairFed()
    state = strategy.init(reports)
    for expected in ([0.98, 0.02], [1.0, 0.0], [1.0, 0.0]):
        weights, state = strategy.weigh(reports, state)
        np.testing.assert_allclose(weights, expected, atol=1e-12)


def test_the_accuracy_of_all_is_weighted_by_size():
    reports = one_group_each()  # against the plain mean, .8, both would be .1 away and nothing would move
    weights, _ = FairFed(beta=0.1).weigh(reports, FairFed().init(reports))
    np.testing.assert_allclose(weights, [0.908, 0.092])


def test_without_a_step_fairfed_is_fedavg():
    reports, strategy = one_group_each(), FairFed(beta=0.0)
    np.testing.assert_allclose(strategy.weigh(reports, strategy.init(reports))[0], [0.9, 0.1])


def test_noise_hides_the_gap_of_thirteen_mixed_clients_of_adult():
    positives_G = 0.8 * np.array([10_607, 566, 409, 55, 50])  # of the training records, by race
    z, clients = 100.0, 13

    def counts(share):
        right = share * positives_G * [0.6, 0.5, 0.6, 0.5, 0.4]
        return np.stack([np.zeros((5, 2)), np.stack([share * positives_G - right, right], axis=-1)], axis=1)

    variance = np.full((5, 2, 2), z**2)
    assert np.isnan(gap(counts(1 / clients), variance))
    assert np.isnan(gap(counts(1.0), clients * variance))
    assert gap(counts(1 / clients), 0 * variance) == pytest.approx(0.2)
    needed = CLEAR * z * np.sqrt(2)
    assert needed == pytest.approx(283, abs=0.2)
    assert (positives_G / clients > needed).tolist() == [True, False, False, False, False]
    assert positives_G[1] / clients == pytest.approx(35, abs=0.5)
    noise = np.random.default_rng(0).normal(size=(100_000, 2)).sum(axis=1)
    assert 1 / np.mean(noise > CLEAR * np.sqrt(2)) == pytest.approx(44, abs=2)


def test_who_errs_the_other_way_is_further_from_the_global_gap():
    better, worse = [[[50, 50], [20, 80]], [[50, 50], [40, 60]]], [[[50, 50], [40, 60]], [[50, 50], [20, 80]]]
    reports, strategy = confusions([better, better, worse]), FairFed(beta=0.5)
    weights, _ = strategy.weigh(reports, strategy.init(reports))
    # Global gap .2/3; Δ = (.4/3, .4/3, .8/3), mean .16/.9: a gap without its sign would treat all alike.
    delta = np.array([0.4, 0.4, 0.8]) / 3
    np.testing.assert_allclose(weights, 1 / 3 - 0.5 * (delta - delta.mean()))


def test_at_beta_five_no_weight_is_negative():
    reports, strategy = one_group_each(), FairFed(beta=5.0)
    weights, state = strategy.weigh(reports, strategy.init(reports))
    np.testing.assert_allclose(weights, [1, 0])
    np.testing.assert_allclose(state["raw"], [1.3, -0.3])


def test_a_client_without_weight_returns_when_it_is_like_the_others():
    def of_one_group(right):
        counts = np.zeros((3, 2, 2, 2))
        for k, (n, r) in enumerate(zip([450, 450, 100], right, strict=True)):
            counts[k, k % 2] = [[r, n - r], [0, 0]]
        return confusions(counts)

    strategy = FairFed(beta=3.0)
    reports = of_one_group([405, 405, 60])  # accuracies .9, .9, .6; of all .87
    weights, state = strategy.weigh(reports, strategy.init(reports))
    np.testing.assert_allclose(weights, [0.5, 0.5, 0])
    weights, _ = strategy.weigh(of_one_group([450, 270, 80]), state)  # 1, .6, .8; of all .8
    np.testing.assert_allclose(weights, [0.49, 0.49, 0.02])


def test_with_nothing_positive_left_the_weights_are_the_sizes():
    reports = one_group_each()
    state = remember({}, reports, raw=np.array([-1.0, -3.0]))
    np.testing.assert_allclose(FairFed(beta=0.0).weigh(reports, state)[0], [0.9, 0.1])


def test_a_gap_that_noise_hides_is_undefined():
    counts = np.array(
        [[[[50, 50], [20, 80]], [[50, 50], [40, 60]]], [[[50, 50], [30, 30]], [[95, 5], [2, 8]]]]
    )
    strategy = FairFed(beta=1.0)
    reports = confusions(counts)
    start = strategy.init(reports)
    n = sizes(reports)
    right = np.array([240, 183]) / [400, 270]
    by_accuracy = np.abs(right - 423 / 670)
    by_gap = np.abs(np.array([0.2, -0.3]) - (110 / 160 - 68 / 110))
    one_of_each = np.array([by_gap[0], by_accuracy[1]])
    for sd, delta in [(3.0, by_gap), (4.0, one_of_each), (500.0, by_accuracy)]:
        # Positives of the second client's second group: 10, against 2 √2 sd = 8.5, 11.3 and more.
        weights, _ = strategy.weigh(confusions(counts, sd), start)
        raw = np.maximum(n - (delta - delta.mean()), 0)
        np.testing.assert_allclose(weights, raw / raw.sum(), atol=1e-12)

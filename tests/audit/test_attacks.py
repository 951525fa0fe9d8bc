"""Membership attacks on scores whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedtoll.audit import attacks
from fedtoll.audit.attacks import Exposure, disparity, exposures, lira, loss

GROUPS = ("leaky", "safe")


def planted(models=20, records=800, effect=(2.0, 0.0), seed=0):
    """Return logits, memberships and groups; being a member raises a logit by the effect of its group."""
    rng = np.random.default_rng(seed)
    codes = np.arange(records) % 2
    member = rng.random((models, records)) < 0.5
    level = rng.normal(0, 3, records)
    logit = level + rng.normal(size=(models, records)) + member * np.array(effect)[codes]
    return logit, member, codes


def test_lira_measures_the_exposure_of_each_group():
    logit, member, codes = planted()
    everybody, leaky, safe = exposures(lira(logit, member), member, codes, GROUPS)
    # The best single threshold tells N(0, 1) from N(2, 1) with Φ(1) − Φ(−1) = .68; shadows cost some of it.
    assert 0.55 < leaky.advantage < 0.69
    assert leaky.low < leaky.advantage < leaky.high
    assert safe.low < 0 < safe.high
    assert everybody.advantage == pytest.approx((leaky.advantage + safe.advantage) / 2, abs=0.02)
    assert leaky.advantage == pytest.approx(leaky.tpr - leaky.fpr)
    assert (leaky.targets, round(leaky.members + leaky.others)) == (20, 400)


def test_a_loss_threshold_cannot_tell_hard_records_from_others():
    logit, member, codes = planted()
    by_loss = exposures(loss(logit), member, codes, GROUPS)[1]
    by_lira = exposures(lira(logit, member), member, codes, GROUPS)[1]
    assert 0.05 < by_loss.advantage < 0.5 * by_lira.advantage


def test_no_effect_is_no_advantage_and_the_interval_says_so():
    """About 95% of the intervals contain 0 under no effect, because no target chooses its own threshold."""
    inside, gains = [], []
    for seed in range(80):
        logit, member, codes = planted(models=12, records=200, effect=(0.0, 0.0), seed=seed)
        everybody = exposures(lira(logit, member), member, codes, GROUPS)[0]
        inside.append(everybody.low <= 0 <= everybody.high)
        gains.append(everybody.advantage)
    assert np.mean(inside) >= 0.88
    assert abs(np.mean(gains)) < 0.01


def test_the_target_is_not_among_its_own_shadows():
    logit, member, _ = planted(models=6, records=50)
    score = lira(logit, member)
    changed = logit.copy()
    changed[2] += 100.0
    again = lira(changed, member)
    n = (~member).sum(axis=0)
    known = n - ~member[2] >= 2
    # The target's own score moves by exactly its own change over an unchanged spread.
    ratio = (again[2] - score[2])[known]
    assert np.ptp(ratio) == pytest.approx(0.0, abs=1e-9)


def test_what_is_undefined_stays_undefined():
    logit, member, codes = planted(models=5, records=40)
    member[:, codes == 1] = True  # a whole group is always in
    score = lira(logit, member)
    assert np.isnan(score[:, codes == 1]).all()
    everybody, leaky, safe = exposures(score, member, codes, GROUPS)
    assert math.isnan(safe.advantage)
    assert safe.targets == 0
    assert math.isfinite(leaky.advantage)
    assert math.isfinite(everybody.advantage)
    nothing = exposures(np.full((3, 4), np.nan), np.ones((3, 4), dtype=bool), np.zeros(4, dtype=int), ("a",))
    assert all(math.isnan(e.advantage) for e in nothing)


def exposure(group, advantage, half, members=100.0):
    return Exposure(group, members, members, 0.5, 0.5, advantage, advantage - half, advantage + half, 20)


def test_the_disparity_is_compared_with_chance():
    found = disparity([exposure("", 0.1, 0.01), exposure("a", 0.3, 0.01), exposure("b", 0.1, 0.01)])
    assert (found.most, found.least) == ("a", "b")
    assert found.value == pytest.approx(0.2)
    # Two equal groups with standard error s differ by 2s/√π on average.
    assert found.by_chance == pytest.approx(2 * 0.01 / 2.093 / math.sqrt(math.pi), rel=0.05)


def test_too_small_groups_have_no_disparity():
    few = exposure("b", 0.9, 0.5, members=attacks.MIN_MEMBERS - 1)
    assert math.isnan(disparity([exposure("a", 0.3, 0.01), few]).value)


def test_groups_that_are_equally_exposed_rarely_differ_by_more_than_chance():
    more = []
    for seed in range(60):
        logit, member, codes = planted(models=12, records=200, effect=(1.0, 1.0), seed=seed)
        found = disparity(exposures(lira(logit, member), member, codes, GROUPS))
        more.append(found.value > found.by_chance_high)
    assert np.mean(more) <= 0.15

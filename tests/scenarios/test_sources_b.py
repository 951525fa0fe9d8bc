"""The records of TV16, NESARC, digits, synthetic data and ACS are the declared and known ones."""

from __future__ import annotations

import dataclasses
import json
import math
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fedtoll.scenarios import data
from fedtoll.scenarios.data import archive
from fedtoll.scenarios.data.acs import acs
from fedtoll.scenarios.data.config import Data, Synthetic, SyntheticGroup
from fedtoll.scenarios.data.synthetic import CLASSES, SEPARATION, synthetic
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.partition import layout
from fedtoll.scenarios.read import read
from fedtoll.scenarios.split import folds
from fedtoll.server.plan import check
from tests.scenarios.tiny import told
from tests.shared import built_in_table, table_of

SCENARIOS = ("tv16-race", "tv16-hard-race", "tv16-state", "nesarc-race", "digits-rare", "synthetic-shift")

# --- Groups ---------------------------------------------------------------------------------------------

# Group: records, share of positives.
VOTES = {
    "race": {
        "White": (34_679, 0.477),
        "Black": (4_168, 0.065),
        "Hispanic": (2_876, 0.284),
        "Asian": (1_194, 0.254),
        "Mixed": (961, 0.273),
        "Other": (608, 0.587),
        "Native American": (371, 0.523),
        "Middle Eastern": (75, 0.240),
    },
    "sex": {"Female": (24_513, 0.380), "Male": (20_419, 0.462)},
}
DRINKING = {
    "race": {
        "White": (24_376, 0.681),
        "Hispanic": (8_252, 0.593),
        "Black": (8_200, 0.505),
        "Asian/Pacific Islander": (1_330, 0.498),
        "American Indian/Alaska Native": (697, 0.591),
    },
    "sex": {"Female": (24_494, 0.563), "Male": (18_361, 0.703)},
    "region": {
        "South": (16_065, 0.555),
        "West": (9_676, 0.650),
        "Midwest": (8_944, 0.676),
        "Northeast": (8_170, 0.667),
    },
}
KNOWN = [
    (source, attribute, groups)
    for source, known in (("tv16", VOTES), ("tv16-hard", VOTES), ("nesarc", DRINKING))
    for attribute, groups in known.items()
]


@pytest.mark.parametrize(("source", "attribute", "known"), KNOWN)
def test_groups_and_base_rates_are_the_known_ones(source, attribute, known):
    table = built_in_table(source)
    groups = table.attributes[attribute]
    assert set(groups.names) == set(known)
    for code, name in enumerate(groups.names):
        records, rate = known[name]
        members = groups.codes == code
        assert members.sum() == records
        assert table.label[members].mean() == pytest.approx(rate, abs=0.0006)


@pytest.mark.parametrize(
    ("source", "records", "features", "rate"),
    [
        ("tv16", 44_932, 34, 0.4174),
        ("tv16-hard", 44_932, 22, 0.4174),
        ("nesarc", 42_855, 22, 0.6232),
        ("digits", 1_797, 64, None),
    ],
)
def test_features_are_finite_and_between_minus_1_and_1(source, records, features, rate):
    table = built_in_table(source)
    assert table.features.shape == (records, features)
    assert np.isfinite(table.features).all()
    assert table.features.min() >= -1
    assert table.features.max() <= 1
    assert rate is None or table.label.mean() == pytest.approx(rate, abs=1e-4)


def test_a_missing_answer_is_the_middle_and_a_1_of_its_own():
    table = built_in_table("tv16")
    column = dict(zip(table.feature_names, table.features.T, strict=True))
    missing = {n.removesuffix("-missing"): x for n, x in column.items() if n.endswith("-missing")}
    assert {name: int(x.sum()) for name, x in missing.items()} == {
        "famincr": 4_720,
        "bornagain": 22,
        "religimp": 20,
        "churchatd": 322,
        "prayerfreq": 904,
        "ideo": 1_502,
        "pid7na": 612,
        "angryracism": 47,
        "whiteadv": 52,
        "fearraces": 100,
        "racerare": 86,
    }
    for name, absent in missing.items():
        assert (column[name][absent == 1] == 0).all()


def test_the_hard_variant_leaves_out_party_ideology_and_attitudes():
    easy, hard = built_in_table("tv16"), built_in_table("tv16-hard")
    dropped = {"ideo", "pid7na", "angryracism", "whiteadv", "fearraces", "racerare"}
    assert set(easy.feature_columns) - set(hard.feature_columns) == {
        f"{name}{end}" for name in dropped for end in ("", "-missing")
    }
    np.testing.assert_array_equal(easy.label, hard.label)


def test_states_are_natural_clients():
    table = built_in_table("tv16")
    state, race = table.attributes["state"], table.attributes["race"]
    assert len(state.names) == 51
    assert [state.counts.min(), np.median(state.counts), state.counts.max()] == [71, 539, 4_136]
    other = np.bincount(state.codes, weights=race.codes != race.names.index("White")) / state.counts
    assert other.min() == pytest.approx(0.056, abs=0.001)
    assert other.max() == pytest.approx(0.56, abs=0.005)
    scenario = read("tv16-state")
    clients = layout(*table_of(scenario.data), scenario.partition, scenario.split).clients
    assert len(clients) == 51
    assert min(c.size for c in clients) == 52  # of 71: a fifth is held out, and a tenth is public
    assert {c.group for c in clients} == {""}  # a state holds voters of every race


def test_digits_are_ten_classes_that_are_the_groups_too():
    table = built_in_table("digits")
    assert table.classes == tuple("0123456789")
    np.testing.assert_array_equal(table.attributes["digit"].codes, table.label)
    assert sorted(np.unique((table.features + 1) * 8)) == list(range(17))


def test_digits_that_another_scikit_learn_changed_are_refused(monkeypatch):
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(return_X_y=True)
    pixels[7, 3] += 1
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: (pixels, digit))
    with pytest.raises(ScenarioError) as caught:
        archive.frame(data.builtin("digits"))
    assert "data 'digits': the installed libraries give other records" in told(caught)


@pytest.mark.parametrize("name", ["tv16", "tv16-hard", "nesarc", "digits"])
def test_the_pinned_records_are_those_that_are_read(name):
    source = data.builtin(name)
    assert archive.fingerprint(archive.frame(source)) == source.fingerprint


# --- Central reference figures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "accuracy", "balanced", "area"),
    [
        ("tv16", 0.885, 0.882, 0.950),
        ("tv16-hard", 0.715, 0.702, 0.784),
        ("nesarc", 0.687, 0.631, 0.708),
        ("digits", 0.965, 0.965, math.nan),
    ],
)
def test_central_logistic_regression_reaches_the_reference(source, accuracy, balanced, area):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    table = built_in_table(source)
    test = folds(table.label, 5) == 0
    solver = "newton-cholesky" if len(table.classes) == 2 else "lbfgs"
    model = LogisticRegression(solver=solver, max_iter=1_000).fit(table.features[~test], table.label[~test])
    predicted, true = model.predict(table.features[test]), table.label[test]
    assert np.mean(predicted == true) == pytest.approx(accuracy, abs=0.015)
    assert balanced_accuracy_score(true, predicted) == pytest.approx(balanced, abs=0.015)
    if not math.isnan(area):
        scores = model.predict_proba(table.features[test])[:, 1]
        assert roc_auc_score(true, scores) == pytest.approx(area, abs=0.015)


# --- The built-in scenarios -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_built_in_scenario_is_valid_and_its_smallest_client_has_batches_of_five(name):
    scenario = read(name)
    check(scenario, name)
    assert scenario.title.endswith("?")
    clients = layout(*table_of(scenario.data), scenario.partition, scenario.split).clients
    assert scenario.training.sampling_rate is not None
    assert scenario.training.sampling_rate * min(c.size for c in clients) >= 5


def test_all_but_a_tenth_of_the_rare_digit_is_kept_from_the_clients():
    scenario = read("digits-rare")
    plan = layout(*table_of(scenario.data), scenario.partition, scenario.split)
    expected = plan.expected_KG.sum(axis=0)
    public = scenario.split.validation  # a tenth of every digit, in whole records
    assert expected[8] == pytest.approx(174 * (1 - public) * 0.8 * 0.1, abs=0.1)
    assert expected[7] == pytest.approx(179 * (1 - public) * 0.8, abs=1)


# --- Made-up records ------------------------------------------------------------------------------------


def people(seed: int = 0, features: int = 8, **groups: dict[str, float]) -> data.Table:
    """Return the table of some groups, of 4,000 records unless stated."""
    made = {name: SyntheticGroup.model_validate({"size": 4_000, **g}) for name, g in groups.items()}
    return data.load_table(synthetic(Synthetic(groups=made, features=features, seed=seed)))


def of(table: data.Table, group: str) -> np.ndarray:
    groups = table.attributes["group"]
    return np.asarray(groups.codes == groups.names.index(group))


def rule(table: data.Table, members: np.ndarray) -> np.ndarray:
    """Return the direction from the mean of the negatives to that of the positives, of length 1."""
    x, y = table.features[members], table.label[members]
    way = x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0)
    return np.asarray(way / np.linalg.norm(way))


def test_sizes_and_base_rates_are_exact():
    table = people(a={"size": 1_000, "base_rate": 0.3}, b={"size": 7, "base_rate": 0.5}, c={"size": 1})
    assert table.attributes["group"].counts.tolist() == [1_000, 7, 1]
    assert table.label[of(table, "a")].sum() == 300
    assert table.label[of(table, "b")].sum() == 4  # round(3.5)
    assert table.feature_names == tuple(f"x{i}" for i in range(8))
    assert table.classes == CLASSES


def test_label_noise_flips_exactly_its_share_of_labels():
    clean, noisy = (people(a={"base_rate": 0.25, "label_noise": noise}) for noise in (0.0, 0.1))
    np.testing.assert_array_equal(clean.features, noisy.features)
    assert (clean.label != noisy.label).sum() == 400
    assert noisy.label.mean() == pytest.approx(0.25 * 0.9 + 0.75 * 0.1, abs=0.02)


@pytest.mark.parametrize("shift", [-1.0, 0.5, 3.0])
def test_a_feature_shift_moves_every_feature_by_so_many_standard_deviations(shift):
    table = people(here={}, there={"feature_shift": shift})
    here, there = (table.features[of(table, name)] for name in ("here", "there"))
    moved = there.mean(axis=0) - here.mean(axis=0)
    np.testing.assert_allclose(np.abs(moved), abs(shift), atol=0.12)
    within = np.concatenate([there[table.label[of(table, "there")] == y].std(axis=0) for y in (0, 1)])
    np.testing.assert_allclose(within, 1, atol=0.06)
    assert rule(table, of(table, "here")) @ rule(table, of(table, "there")) > 0.99


@pytest.mark.parametrize("shift", [0.0, 1 / 3, 1.0])
def test_a_concept_shift_turns_the_rule(shift):
    table = people(common={}, own={"concept_shift": shift})
    between = rule(table, of(table, "common")) @ rule(table, of(table, "own"))
    assert math.degrees(math.acos(min(1.0, between))) == pytest.approx(90 * shift, abs=4)


@pytest.mark.parametrize("features", [2, 5, 60])
def test_the_best_accuracy_is_known_and_a_rule_of_its_own_is_missed(features):
    from sklearn.linear_model import LogisticRegression

    table = people(features=features, common={}, own={"concept_shift": 1.0}, far={"feature_shift": 2.0})
    model = LogisticRegression().fit(table.features[of(table, "common")], table.label[of(table, "common")])
    right = model.predict(table.features) == table.label
    assert right[of(table, "common")].mean() == pytest.approx(NormalDist().cdf(SEPARATION / 2), abs=0.02)
    assert right[of(table, "own")].mean() == pytest.approx(0.5, abs=0.04)
    own = LogisticRegression().fit(table.features[of(table, "far")], table.label[of(table, "far")])
    right = own.predict(table.features[of(table, "far")]) == table.label[of(table, "far")]
    assert right.mean() == pytest.approx(NormalDist().cdf(SEPARATION / 2), abs=0.02)


def test_features_stay_inside_the_declared_bounds():
    section = Synthetic(groups={"far": SyntheticGroup(size=50_000, feature_shift=-2.0)})
    source = synthetic(section)
    column = source.columns[0]
    assert isinstance(column, data.Numeric)
    assert (column.low, column.high) == (-6, 6)
    assert np.abs(data.load_table(source).features).max() == 6  # the few beyond it are cut off


SECTION = {"features": 5, "seed": 3, "groups": {"a": {"size": 50}, "b": {"size": 20, "base_rate": 0.2}}}


def _section(**changes: object) -> Synthetic:
    return Synthetic.model_validate({**SECTION, **changes})


def test_the_same_section_gives_the_same_bytes_and_another_seed_others():
    once, again = (archive.frame(synthetic(_section())) for _ in range(2))
    assert archive.fingerprint(once) == archive.fingerprint(again)
    other = archive.frame(synthetic(_section(seed=4)))
    assert archive.fingerprint(other) != archive.fingerprint(once)
    assert not np.isclose(other["x0"], once["x0"]).any()
    # whatever the versions of numpy and scikit-learn:
    assert once["x0"][[0, 49, 69]].to_list() == pytest.approx([2.2848, -0.5486, -1.3412], abs=1e-4)


def test_the_groups_after_it_change_nothing_about_a_group():
    two = archive.frame(synthetic(_section()))
    one = archive.frame(synthetic(_section(groups={"a": {"size": 50}})))
    pd.testing.assert_frame_equal(two[:50], one)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"features": 6},
        {"groups": {"a": {"size": 51}, "b": {"size": 20, "base_rate": 0.2}}},
        *(
            {"groups": {"a": {"size": 50, key: 0.1}, "b": {"size": 20, "base_rate": 0.2}}}
            for key in ("base_rate", "label_noise", "feature_shift", "concept_shift")
        ),
    ],
)
def test_the_checksum_covers_the_section(changes):
    assert synthetic(_section()).checksum == synthetic(_section()).checksum
    assert synthetic(_section(**changes)).checksum != synthetic(_section()).checksum


def test_a_scenario_makes_the_source_without_making_records(monkeypatch):
    monkeypatch.setattr("sklearn.datasets.make_blobs", lambda **_: pytest.fail("it made records"))
    made = data.source_of(Data(source="synthetic", groups=("group",), synthetic=_section()))
    assert made.attributes == {"group": ("a", "b")}
    assert made.rows == 70


# --- ACS ------------------------------------------------------------------------------------------------

# As OpenML 43141 gives them: floats throughout, in this order; and three people of Georgia.
RAW = pd.DataFrame(
    {
        "AGEP": [17.0, 44.0, 94.0],
        "COW": [1.0, 5.0, 7.0],
        "SCHL": [1.0, 21.0, 24.0],
        "MAR": [5.0, 1.0, 2.0],
        "OCCP": [10.0, 4110.0, 9830.0],
        "POBP": [13.0, 72.0, 303.0],
        "RELP": [2.0, 0.0, 17.0],
        "WKHP": [1.0, 40.0, 99.0],
        "SEX": [1.0, 2.0, 2.0],
        "RAC1P": [1.0, 5.0, 9.0],
        "PINCP": [104.0, 50_000.0, 50_001.0],
    }
)


@pytest.fixture
def fetches(monkeypatch, tmp_path):
    """An empty cache, and a fake fetcher that records the states requested; "XX" and "NO" fail."""
    asked: list[str] = []

    def fetch(*, states, data_home, **options):
        asked.extend(states)
        if states == ["XX"]:
            raise ValueError("Error with states: ['XX']\nState code must be a two letter abbreviation")
        if states == ["NO"]:
            raise OSError(-2, "Name or service not known")
        return SimpleNamespace(frame=RAW.astype({"COW": "category", "SEX": "category"}))

    monkeypatch.setattr("fairlearn.datasets.fetch_acs_income", fetch)
    monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path / "cache"))
    return asked


def test_acs_becomes_the_declared_columns(fetches):
    table = data.load_table(acs(("GA", "HI")))
    assert fetches == ["GA", "HI"]
    assert len(table) == 6
    assert table.features.min() >= -1
    assert table.features.max() <= 1
    groups = {a: [g.names[c] for c in g.codes[:3]] for a, g in table.attributes.items()}
    assert groups == {
        "race": ["White", "American Indian/Alaska Native", "Two or more"],
        "sex": ["Male", "Female", "Female"],
        "age": ["<=29", "30-44", "60+"],
        "state": ["GA", "GA", "GA"],
    }
    assert table.attributes["state"].counts.tolist() == [3, 3]
    assert table.label.tolist() == [0, 0, 1] * 2
    names = np.array(table.feature_names)
    words = [set(names[(x == 1) & (np.char.find(names, "=") > 0)]) for x in table.features[:3]]
    assert {"occupation=Management", "birthplace=US state", "workclass=Private for profit"} < words[0]
    assert {"occupation=Food", "birthplace=US territory", "relationship=Reference person"} < words[1]
    assert {"occupation=Military", "birthplace=Americas", "marital=Widowed"} < words[2]


def test_acs_is_fetched_once_and_cached_in_one_file(fetches, tmp_path):
    fetched, again = (archive.frame(acs(("GA",))) for _ in range(2))
    assert fetches == ["GA"]
    pd.testing.assert_frame_equal(fetched, again, check_dtype=False)
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name == f"acs-v1-GA-{archive.fingerprint(fetched)[:12]}.parquet"
    archive.frame(acs(("HI",)))
    assert fetches == ["GA", "HI"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"no parquet"), "is damaged; delete it"),
        (
            lambda path: pd.read_parquet(path)[:2].to_parquet(path),
            "has changed since it was fetched; delete it",
        ),
    ],
)
def test_a_damaged_or_changed_file_of_acs_is_reported(fetches, tmp_path, damage, words):
    archive.frame(acs(("GA",)))
    (file,) = (tmp_path / "cache").iterdir()
    damage(file)
    with pytest.raises(ScenarioError) as caught:
        archive.frame(acs(("GA",)))
    assert words in told(caught)
    assert fetches == ["GA"]


@pytest.mark.parametrize(("state", "why"), [("NO", "Name or service not known"), ("XX", "two letter")])
def test_acs_without_a_connection_is_one_clear_line_and_nothing_is_kept(fetches, tmp_path, state, why):
    with pytest.raises(ScenarioError) as caught:
        archive.frame(acs(("GA", state)))
    text = told(caught)
    assert f"data 'acs' is not in the cache {tmp_path / 'cache'} and could not be fetched" in text
    assert why in text
    assert "connect once and run the same command again" in text
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_keep_acs_is_reported_before_the_download(fetches, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(ScenarioError) as caught:
        archive.frame(acs(("GA",)))
    assert "cannot be written to the cache" in told(caught)
    assert fetches == []


def test_an_unknown_code_of_acs_is_reported(fetches, monkeypatch):
    monkeypatch.setattr(f"{__name__}.RAW", RAW.assign(RAC1P=[1.0, 1.0, 10.0]))
    with pytest.raises(ScenarioError, match="column 'race' holds the undeclared value"):
        data.load_table(acs(("GA",)))


def test_looking_at_acs_fetches_nothing(fetches):
    assert data.cached_table(data.builtin("acs")) is None
    assert dataclasses.replace(acs(), title="").checksum == data.builtin("acs").checksum
    assert acs(("GA",)).checksum != data.builtin("acs").checksum
    assert fetches == []


def test_a_scenario_of_acs_is_of_the_records_that_are_there(fetches, monkeypatch, tmp_path):
    """Within one process, too: another cache folder may hold another download."""
    section, runs = Data(source="acs", groups=("race",)), []
    for sex in (1.0, 2.0):
        monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path / f"{sex}"))
        monkeypatch.setattr(f"{__name__}.RAW", RAW.assign(SEX=sex))
        runs.append(data.source_of(section))
        data.load_table(runs[-1])
    assert runs[0].checksum != runs[1].checksum


def test_the_checksum_of_acs_is_of_the_records(fetches, monkeypatch, tmp_path):
    """Two downloads that differ in one person are two sources: neither resumed nor compared as one."""
    here = acs(("GA",))
    unread = here.checksum
    data.load_table(here)
    assert here.checksum != unread
    assert acs(("GA",)).checksum == here.checksum  # from the name of the cached file

    monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path / "another"))
    monkeypatch.setattr(f"{__name__}.RAW", RAW.assign(SEX=[2.0, 2.0, 2.0]))
    there = acs(("GA",))
    data.load_table(there)
    assert len({unread, here.checksum, there.checksum}) == 3
    assert acs(("GA",)).checksum == there.checksum


# Working people that the task's filter leaves, about as many as each state had in 2018.
PEOPLE = {"AL": 22_000, "GA": 51_000, "HI": 8_000, "LA": 21_000, "MS": 13_000, "NM": 9_000}


def survey(state: str, people: int) -> pd.DataFrame:
    """Raw records in the survey's own codes; income grows with schooling, age and hours."""
    rng = np.random.default_rng([ord(letter) for letter in state])
    raw = pd.DataFrame(
        {
            "AGEP": rng.integers(17, 95, people),
            "COW": rng.integers(1, 9, people),
            "SCHL": rng.integers(1, 25, people),
            "MAR": rng.integers(1, 6, people),
            "OCCP": rng.choice([10, 800, 1021, 2310, 4110, 5240, 6260, 9130], people),
            "POBP": rng.choice([13, 72, 110, 217, 303], people),
            "RELP": rng.integers(0, 18, people),
            "WKHP": rng.integers(1, 100, people),
            "SEX": rng.integers(1, 3, people),
            "RAC1P": rng.choice(
                range(1, 10), people, p=[0.62, 0.25, 0.01, 0.005, 0.015, 0.04, 0.01, 0.02, 0.03]
            ),
        }
    ).astype(float)
    score = 0.12 * raw["SCHL"] + 0.02 * raw["AGEP"] + 0.03 * raw["WKHP"] + rng.logistic(size=people)
    return raw.assign(PINCP=np.where(score > 4.5, 60_000.0, 30_000.0))


@pytest.mark.thorough
def test_the_scenario_of_acs_runs_on_records_of_the_recorded_shape(here, tmp_path, monkeypatch):
    """Tests cannot fetch the real records; these have their codes and their size, and no meaning."""

    def fetch(*, states, data_home, **options):
        (state,) = states
        return SimpleNamespace(frame=survey(state, PEOPLE[state]))

    monkeypatch.setattr("fairlearn.datasets.fetch_acs_income", fetch)
    monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path / "cache"))
    code, out, _ = here("data", "fetch", "acs")
    assert code == 0
    assert f"{sum(PEOPLE.values()):,} records" in out
    code, out, err = here(
        "run", "acs-state", "--seeds", "0:1", "--set", 'privacy.epsilons=["inf", 0.5]', "--json", "--no-tune"
    )
    assert (code, err) == (0, "")
    tolls = pd.DataFrame(json.loads(out)["toll"])
    assert len(tolls) == 2 * 3 * 8  # two ε, three strategies, seven groups and everybody
    held_out = sum(PEOPLE.values()) * 0.9 / 5  # a tenth is public
    assert tolls[tolls["group"] == "(all)"]["n"].unique() == pytest.approx([held_out], abs=10)


# --- The catalogue --------------------------------------------------------------------------------------


def test_made_up_records_are_in_the_catalogue(here):
    code, out, _ = here("list", "data")
    assert code == 0
    assert "synthetic " in out
    assert "0 records" not in out.split("acs ")[1].splitlines()[0]
    code, out, _ = here("describe", "synthetic")
    assert code == 0
    assert "concept_shift" in out

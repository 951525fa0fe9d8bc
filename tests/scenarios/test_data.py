from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fedtoll.scenarios import data
from fedtoll.scenarios.data import Categorical, Numeric, encode
from fedtoll.scenarios.data.source import Archive
from fedtoll.scenarios.errors import ScenarioError
from tests.scenarios.tiny import TINY_FRAME, tiny, told

ADULT = data.builtin("adult")

# --- The records of Adult -------------------------------------------------------------------------------

# Group: records, share of positives; from the literature's tables of Adult.
KNOWN = {
    "race": {
        "White": (41_762, 0.254),
        "Black": (4_685, 0.121),
        "Asian-Pac-Islander": (1_519, 0.269),
        "Amer-Indian-Eskimo": (470, 0.117),
        "Other": (406, 0.123),
    },
    "sex": {"Male": (32_650, 0.304), "Female": (16_192, 0.109)},
    "race/sex": {
        "White/Female": (13_027, 0.118),
        "White/Male": (28_735, 0.316),
        "Black/Female": (2_308, 0.057),
        "Black/Male": (2_377, 0.183),
        "Asian-Pac-Islander/Female": (517, 0.134),
        "Asian-Pac-Islander/Male": (1_002, 0.339),
        "Amer-Indian-Eskimo/Female": (185, 0.081),
        "Amer-Indian-Eskimo/Male": (285, 0.140),
        "Other/Female": (155, 0.071),
        "Other/Male": (251, 0.155),
    },
    "age": {
        "<=29": (14_515, 0.051),
        "30-44": (18_687, 0.295),
        "45-59": (11_585, 0.383),
        "60+": (4_055, 0.243),
    },
}


@pytest.mark.parametrize("attribute", KNOWN)
def test_adult_has_the_known_groups_and_base_rates(adult, attribute):
    groups = adult.groups(attribute.split("/"))
    assert groups.name == attribute
    assert set(groups.names) == set(KNOWN[attribute])
    for code, name in enumerate(groups.names):
        records, rate = KNOWN[attribute][name]
        members = groups.codes == code
        assert members.sum() == groups.counts[code] == records
        assert adult.label[members].mean() == pytest.approx(rate, abs=0.0006)


def test_adult_is_the_canonical_training_set_then_the_canonical_test_set(adult):
    np.testing.assert_array_equal(adult.canonical_test, np.arange(48_842) >= 32_561)
    value = dict(zip(adult.feature_names, adult.features[32_561], strict=True))
    # 25, Private, 226802, 11th, 7, Never-married, Machine-op-inspct, Own-child, Black, Male, 0, 0, 40, ...
    assert value["age"] == pytest.approx((25 - 53.5) / 36.5)
    assert value["education-num"] == pytest.approx((7 - 8.5) / 7.5)
    assert {name for name, x in value.items() if "=" in name and x == 1} == {
        "workclass=Private",
        "marital-status=Never-married",
        "occupation=Machine-op-inspct",
        "relationship=Own-child",
        "race=Black",
        "sex=Male",
        "native-country=United-States",
    }


def test_adults_features_are_what_was_declared(adult):
    assert adult.features.shape == (48_842, 91)
    assert adult.features.dtype == np.float32
    assert adult.features.min() == -1
    assert adult.features.max() == 1
    assert {"fnlwgt", "education", "income"}.isdisjoint(adult.feature_columns)
    names = np.array(adult.feature_names)
    # Missing values are a category: 1,836 + 963, 1,843 + 966 and 583 + 274 records.
    missing = {column: adult.features[:, names == f"{column}=?"].sum() for column in adult.feature_columns}
    assert {column: n for column, n in missing.items() if n} == {
        "workclass": 2_799,
        "occupation": 2_809,
        "native-country": 857,
    }
    assert adult.classes == ("<=50K", ">50K")
    assert adult.label.mean() == pytest.approx(0.2393, abs=1e-4)


def test_central_logistic_regression_reaches_the_reference_accuracy(adult):
    """The features carry what others find in Adult: .853 accuracy, .765 balanced, on the canonical split."""
    from sklearn.linear_model import LogisticRegression

    test = adult.canonical_test
    model = LogisticRegression(solver="newton-cholesky").fit(adult.features[~test], adult.label[~test])
    right = model.predict(adult.features[test]) == adult.label[test]
    assert right.mean() == pytest.approx(0.853, abs=0.015)
    recalls = [right[adult.label[test] == label].mean() for label in (0, 1)]
    assert np.mean(recalls) == pytest.approx(0.765, abs=0.015)
    race = adult.groups(["race"])
    asian = race.codes[test] == race.names.index("Asian-Pac-Islander")
    assert right[asian].mean() == pytest.approx(0.841, abs=0.02)  # the worst race


def test_tables_are_read_only(adult):
    for array in (adult.features, adult.label, adult.canonical_test, adult.groups(["race", "sex"]).codes):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


# --- Tables ---------------------------------------------------------------------------------------------


def test_without_drops_the_features_of_a_column_and_keeps_its_groups(adult):
    blind = adult.without(["race", "sex"])
    assert blind.features.shape == (48_842, 84)
    assert {"race", "sex"}.isdisjoint(blind.feature_columns)
    assert len(blind.feature_names) == 84
    age = adult.feature_names.index("age")
    np.testing.assert_array_equal(blind.features[:, blind.feature_names.index("age")], adult.features[:, age])
    np.testing.assert_array_equal(blind.groups(["race"]).codes, adult.groups(["race"]).codes)


@pytest.mark.parametrize(
    ("method", "names", "expected"),
    [
        ("without", ["rase"], "no feature column 'rase' to drop; did you mean 'race'?"),
        ("without", ["race=Black"], "no feature column 'race=Black'"),
        ("without", [column.name for column in ADULT.columns], "leaves no feature"),
        ("groups", ["sx"], "no attribute 'sx' for groups; did you mean 'sex'?"),
        ("groups", ["workclass"], "no attribute 'workclass' for groups; known: age, race, sex"),
        ("groups", [], "at least one attribute"),
        ("groups", ["sex", "sex"], "attribute 'sex' is named twice"),
    ],
)
def test_without_and_groups_tell_mistakes_in_one_line(adult, method, names, expected):
    with pytest.raises(ScenarioError) as caught:
        getattr(adult, method)(names)
    assert expected in told(caught)


def test_crossing_names_and_codes_run_with_the_last_attribute_fastest(adult):
    crossed = adult.groups(["sex", "age"])
    sex, age = adult.attributes["sex"], adult.attributes["age"]
    assert crossed.names[:5] == ("Male/<=29", "Male/30-44", "Male/45-59", "Male/60+", "Female/<=29")
    for row in (0, 17, 40_000):
        assert crossed.names[crossed.codes[row]] == f"{sex.names[sex.codes[row]]}/{age.names[age.codes[row]]}"


# --- Encoding -------------------------------------------------------------------------------------------


def test_encode_follows_the_declared_facts():
    table = encode(TINY_FRAME, tiny())
    assert table.feature_names == ("age", "gain", "race=a", "race=b", "race=?")
    assert table.feature_columns == ("age", "gain", "race", "race", "race")
    expected = [
        [-1, -0.5, 1, 0, 0],
        [(29 - 53.5) / 36.5, (np.log(11) - 1) / 2, 0, 1, 0],
        [(30 - 53.5) / 36.5, -0.5, 0, 0, 1],
        [1, (np.log(100) - 1) / 2, 1, 0, 0],
    ]
    np.testing.assert_allclose(table.features, expected, rtol=1e-6)
    np.testing.assert_array_equal(table.label, [0, 1, 1, 0])
    np.testing.assert_array_equal(
        table.attributes["age"].codes, [0, 0, 1, 1]
    )  # 29 is young: bins close above
    np.testing.assert_array_equal(table.attributes["race"].codes, [1, 0, 2, 1])
    assert table.canonical_test is None


def test_nothing_is_fitted_on_records():
    """A record's features are the same whoever else is in the table."""
    whole = encode(TINY_FRAME, tiny())
    for row in range(4):
        alone = encode(TINY_FRAME.iloc[[row]], tiny())
        np.testing.assert_array_equal(alone.features[0], whole.features[row])


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("race", "aa", "column 'race' holds the undeclared value 'aa' (row 2)"),
        ("race", None, "column 'race' holds the undeclared value"),
        ("paid", "Yes", "column 'paid' holds the undeclared value 'Yes' (row 2); did you mean 'yes'?"),
        ("age", 91, "column 'age' holds 91 (row 2), outside its declared bounds 17 to 90"),
        ("gain", -1.0, "column 'gain' holds -1 (row 2), outside its declared bounds 0 to 99"),
        ("gain", float("nan"), "column 'gain' holds nan (row 2)"),
    ],
)
def test_a_record_outside_the_declared_facts_is_refused(column, value, expected):
    frame = TINY_FRAME.copy()
    frame.loc[2, column] = value
    with pytest.raises(ScenarioError) as caught:
        encode(frame, tiny())
    assert expected in told(caught)


def test_counts_are_checked():
    table = encode(TINY_FRAME, tiny())
    data.check(table, tiny())
    with pytest.raises(ScenarioError, match="1 records of race 'b', declared 2"):
        data.check(table, tiny(counts={"race": {"b": 2, "a": 1, "?": 1}}, bins={}))
    with pytest.raises(ScenarioError, match="4 records, declared 5"):
        data.check(table, tiny(rows=5, counts={}, bins={}))


# --- Sources --------------------------------------------------------------------------------------------


def test_an_unknown_source_suggests_the_nearest():
    with pytest.raises(ScenarioError, match="no data source 'adlt'; did you mean 'adult'"):
        data.builtin("adlt")


def test_looking_up_a_source_loads_nothing_heavy():
    heavy = "{'pandas', 'pyarrow', 'torch', 'flwr', 'sklearn', 'pydantic', 'platformdirs'}"
    code = (
        "import sys; from fedtoll.scenarios import data; data.builtin('adult').checksum; "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"fingerprint": "0" * 64},
        {"archive": Archive("fedtoll-tiny-records", "1.0", "1" * 64)},
        {"columns": (Numeric.bounded("age", 17, 91), *tiny().columns[1:])},
        {"columns": (*tiny().columns[:2], Categorical("race", ("b", "a", "?")))},
        {"counts": {**tiny().counts, "race": {"a": 2, "b": 1, "?": 1}}},
        {"bins": {"age": (30,)}},
    ],
)
def test_the_checksum_changes_with_everything_that_determines_the_table(changes):
    assert len(tiny().checksum) == 64
    assert tiny(**changes).checksum != tiny().checksum


def test_the_checksum_ignores_words():
    assert tiny(title="x", citation="y", traps=("z",)).checksum == tiny().checksum


def test_contradicting_declarations_are_refused():
    for changes in (
        {"positive": "no"},
        {"bins": {"age": (29, 44)}},
        {"bins": {"gain": (29,)}},
        {"counts": {"race": {"a": 1, "b": 1}}, "bins": {}},
    ):
        with pytest.raises(ValueError, match="source 'tiny'"):
            tiny(**changes)
    with pytest.raises(ValueError, match="scale positive"):
        Numeric.bounded("x", 1, 1)

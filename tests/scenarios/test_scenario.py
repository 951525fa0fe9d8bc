"""Scenario files are read, or refused in one clear line."""

from __future__ import annotations

import json
import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import library, read, validate
from fedtoll.scenarios.scenario import Privacy, Scenario, StrategySpec

BASE = library()["adult-race"].read_text(encoding="utf-8")


def _with(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", sorted(library()))
def test_every_built_in_scenario_is_valid_and_named_after_its_file(name):
    assert read(name).name == name


MISTAKES = {
    "unknown key": ("clip = 3.0", "clipp = 3.0", ["training.clipp", "unknown key", "'clip'"]),
    "unknown section": ("[split]", "[splitt]", ["splitt", "unknown key", "'split'"]),
    "missing key": ("learning_rate = 0.5", "", ["training.learning_rate", "missing"]),
    "epsilon of 0": ("8, 2, 1, 0.5", "0", ["privacy.epsilons[1]", "= 0", "greater than 0"]),
    "negative epsilon": ("8, 2, 1, 0.5", "-1", ["privacy.epsilons[1]", "-1", "greater than 0"]),
    "epsilon is no number": ("8, 2, 1, 0.5", '"eight"', ["privacy.epsilons[1]", "'eight'", "number"]),
    "epsilon is NaN": ("8, 2, 1, 0.5", "nan", ["privacy.epsilons[1]", "nan", "greater than 0"]),
    "epsilon twice": ("8, 2, 1, 0.5", "8, 8.0", ["privacy.epsilons", "same ε twice"]),
    "number as text": ("rounds = 30", 'rounds = "30"', ["training.rounds", "'30'", "integer"]),
    "no rounds": ("rounds = 30", "rounds = 0", ["training.rounds", "0", "greater than or equal to 1"]),
    "infinite learning rate": (
        "learning_rate = 0.5",
        "learning_rate = inf",
        ["training.learning_rate", "inf"],
    ),
    "two ways to say q": (
        "local_steps",
        "batch_size = 3\nlocal_steps",
        ["training", "sampling_rate, batch_size"],
    ),
    "name with ../": ('name = "adult-race"', 'name = "../evil"', ["name", "'../evil'", "hyphens"]),
    "unknown model": ('kind = "logistic"', 'kind = "logistics"', ["model", "'logistics'", "'logistic'"]),
    "unknown split": ('kind = "folds"', 'kind = "fold"', ["split.kind", "'fold'", "'folds'"]),
    "seeds": ('seeds = "0:10"', 'seeds = "5:0"', ["seeds", "5:0", "range"]),
    "no seeds": ('seeds = "0:10"', 'seeds = "5:5"', ["seeds", "5:5", "the range is empty"]),
    "strategy twice": ('name = "uniform"', 'name = "fedavg"', ["fedavg", "twice"]),
    "not TOML": ("[data]", "[data", ["not a TOML file"]),
}


HUGE = "1" + 400 * "0"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (f"privacy.epsilons=[{HUGE}]", "privacy.epsilons[0] = 1000"),
        (f"claim=[{{kind='shape', over=[{HUGE}]}}]", "claim[0].name: missing (and 2 more)"),
    ],
)
def test_an_integer_beyond_every_float_is_one_line(override, line):
    with pytest.raises(ScenarioError) as caught:
        read("adult-race", [override])
    assert str(caught.value).startswith(f"adult-race.toml: {line}")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_file_key_value_and_nearest_word(tmp_path, mistake):
    old, new, words = MISTAKES[mistake]
    assert old in BASE
    with pytest.raises(ScenarioError) as caught:
        read(_with(tmp_path, BASE.replace(old, new, 1)))
    text = str(caught.value)
    assert text.startswith("mine.toml: ")
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.rounds", ["key=value"]),
        ("training.rounds=many", ["'many'", "TOML literal"]),
        ("title.x=1", ["'title'", "not a section"]),
        ("training.round=3", ["training.round", "'rounds'"]),
        ("training.rounds=[1,", ["'[1,' is not a TOML literal: ", "at end of document"]),
        ('training.rounds="a', ["is not a TOML literal: "]),
        (
            "partition.keep.<=29=0.5",
            ['a key that holds "=" needs quotes, e.g. \'partition.keep."<=29"=0.5\''],
        ),
        ('partition.keep."<=29=0.5', ["must be key=value"]),
        (r'partition.keep."\q"=0.5', ["is not a TOML key: ", "escape"]),
        ("training..rounds=3", ["must be key=value"]),
        ("=3", ["must be key=value"]),
        ("training.rounds=3\ny=4", ["more than one value"]),
        ("strategies[1].t=5", ["one strategy's parameter cannot be overridden", 'strategies=[{name="term"']),
        ('"strategies".t=5', ["one strategy's parameter cannot be overridden"]),
        ("strategies.t=5", ["one strategy's parameter cannot be overridden"]),
    ],
)
def test_a_wrong_override_is_one_line(override, words):
    with pytest.raises(ScenarioError) as caught:
        read("adult-race", [override])
    assert len(str(caught.value).splitlines()) == 1
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("override", "group"),
    [
        ('partition.keep."<=29"=0.5', "<=29"),
        ("partition.keep.'<=29' = 0.5", "<=29"),
        (' "partition" . keep . "<=29"=0.5', "<=29"),
        ('partition.keep."a.b=\\"c\\""=0.5', 'a.b="c"'),
        ('partition.keep={"<=29"=0.5}', "<=29"),
        ("partition.keep.60+=0.5", "60+"),
        ("partition.keep.Native American=0.5", "Native American"),
    ],
)
def test_an_override_can_name_every_group(override, group):
    assert read("adult-race", [override]).partition.keep == {group: 0.5}


TABLES = 'must be a list of tables, e.g. [{name="fedavg"}]'


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ('"fedavg"', f"strategies = 'fedavg': {TABLES}"),
        ('{name="fedavg"}', f"strategies: {TABLES}"),
        ('["fedavg"]', f"strategies[0] = 'fedavg': strategies {TABLES}"),
        ('["fedavg", "uniform"]', f"strategies[0] = 'fedavg': strategies {TABLES} (and 1 more)"),
        ('[{Name="fedavg"}]', "strategies[0].name: missing; found 'Name' instead"),
        ('[{name="term"}, {t=5.0}]', "strategies[1].name: missing"),
        ('[{name="term"}, {t=5.0}, {}]', "strategies[1].name: missing (and 1 more)"),
        ("[{name=1}]", "strategies[0].name = 1: input should be a valid string"),
        ("[]", "strategies = []: must have at least one value"),
        (
            '[{name="a.py:Mine"}, {name="b.py:Mine"}]',
            "strategies: 'a.py:Mine' and 'b.py:Mine' are both called Mine in tables; rename one class",
        ),
        ('[{name="a.py:Mine"}, {name="a.py:Mine"}]', "strategies: Mine appears twice"),
    ],
)
def test_a_mistake_in_the_strategies_is_one_line(value, line):
    with pytest.raises(ScenarioError) as caught:
        read("adult-race", [f"strategies={value}"])
    assert str(caught.value) == f"adult-race.toml: {line}"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training=5", "training = 5: must be a table"),
        ("data.own=5", "data.own = 5: must be a table"),
        ("partition.keep=3", "partition.keep = 3: must be a table"),
        ('data.groups="race"', "data.groups = 'race': must be a list"),
        (
            "partition.clients.White=0",
            "partition.clients.White = 0: input should be greater than or equal to 1",
        ),
        ("partition.clients=true", "partition.clients = True: input should be a valid integer"),
    ],
)
def test_a_mistake_is_in_words_of_toml(override, line):
    """Neither pydantic's types nor the branches of its unions are in a scenario file."""
    with pytest.raises(ScenarioError) as caught:
        read("adult-race", [override])
    assert str(caught.value) == f"adult-race.toml: {line}"


def test_overrides_and_seeds_take_effect():
    scenario = read("adult-race", ["training.rounds=3", 'privacy.epsilons=["inf", "clip-only", 1]'], "2:4")
    assert scenario.training.rounds == 3
    assert scenario.privacy.epsilons == (math.inf, "clip-only", 1.0)
    assert scenario.seeds == (2, 3)


def test_unknown_names_and_files_are_one_line():
    with pytest.raises(ScenarioError, match="did you mean 'adult-race'"):
        read("adult-rase")
    with pytest.raises(ScenarioError, match="no such file"):
        read("nowhere/x.toml")


def test_a_folder_is_not_called_missing(tmp_path):
    (tmp_path / "x.toml").mkdir()
    with pytest.raises(ScenarioError, match=r"x.toml: a folder, not a file"):
        read(str(tmp_path / "x.toml"))


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_byte_order_mark_is_no_part_of_a_scenario(tmp_path, suffix):
    text = BASE if suffix == "toml" else json.dumps(tomllib.loads(BASE))
    (tmp_path / f"x.{suffix}").write_text(text, encoding="utf-8-sig")
    assert read(str(tmp_path / f"x.{suffix}")) == read("adult-race")


def test_a_scenario_survives_json():
    scenario = read("adult-race", ['privacy.epsilons=["inf", "clip-only", 0.5]'])
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_any_positive_epsilon_is_kept_exactly(epsilon):
    assert Privacy(epsilons=(epsilon,)).epsilons == (epsilon,)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from([*Scenario.model_fields, "other"]),
)
def test_anything_in_the_place_of_a_section_is_one_line_or_valid(value, key):
    import tomllib

    table = {**tomllib.loads(BASE), key: value}
    said = ""
    try:
        validate(table, "mine.toml")
    except ScenarioError as error:
        said = str(error)
    assert "\n" not in said.replace(repr(value), "")


def test_labels_tell_strategies_apart():
    assert StrategySpec(name="term", t=5.0, clip=1.0).label == "term(clip=1, t=5)"
    assert StrategySpec(name="flwr.serverapp.strategy:FedYogi").label == "FedYogi"
    table = {"t": 5.0, "clip": 1}
    assert (
        StrategySpec(name="noise-fair", target="term", target_parameters=table).label
        == "noise-fair(target=term, target_parameters={clip=1, t=5})"
    )


@pytest.mark.parametrize("other", [0.12345671, 0.1234567000000001, 1e300 / 3])
def test_labels_differ_where_parameters_do(other):
    specs = [StrategySpec(name="term", t=t, inner={"t": t}) for t in (0.1234567, other)]
    assert specs[0].label != specs[1].label
    assert specs[0].label == "term(inner={t=0.1234567}, t=0.1234567)"


@given(st.floats(allow_nan=False))
def test_a_label_states_a_float_exactly(value):
    label = StrategySpec(name="term", t=value).label
    assert float(label.removeprefix("term(t=").removesuffix(")")) == value
    if float(f"{value:g}") == value:  # as in tables that are already stored
        assert label == f"term(t={value:g})"

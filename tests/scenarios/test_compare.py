"""The declared family is checked against its scenario and is not part of any run."""

from __future__ import annotations

import pytest

from fedtoll.scenarios.compare import Compare, check_classes, family, most, unreachable
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.measures import MEASURES
from fedtoll.scenarios.read import library, read

BASE = library()["adult-race"].read_text(encoding="utf-8")
STRATEGIES = {"fedavg": "fedavg", "uniform": "uniform", "term(t=5)": "term", "term(t=1)": "term"}
INF = float("inf")


def declared(tmp_path, section: str, *overrides: str, seeds: str | None = None):
    """Read the flagship scenario with another ``[compare]``."""
    start, rest = BASE.split("[compare]", 1)
    file = tmp_path / "mine.toml"
    file.write_text(f"{start}[compare]\n{section}\n\n[[strategies]]{rest.split('[[strategies]]', 1)[1]}")
    return read(str(file), overrides, seeds)


def test_measures_are_those_of_the_toll(tmp_path):
    for measure in MEASURES:
        assert Compare(measure=measure).measure == measure
    with pytest.raises(ScenarioError, match=r"compare.measure = 'aurok': unknown; did you mean 'auroc'\?"):
        declared(tmp_path, 'measure = "aurok"')


def test_a_family_goes_by_epsilon_strategy_and_quantity():
    made = family(
        Compare(epsilons=(0.5, 8.0), strategies=("uniform",)), STRATEGIES, [INF, 8.0, 0.5, "clip-only"]
    )
    assert [(c.epsilon, c.strategy, c.quantity) for c in made] == [
        (0.5, "uniform", "toll gap"),
        (0.5, "uniform", "utility"),
        (8.0, "uniform", "toll gap"),
        (8.0, "uniform", "utility"),
    ]


def test_the_baseline_is_fedavg_or_the_first():
    assert {c.baseline for c in family(None, STRATEGIES, [1.0])} == {"fedavg"}
    assert {c.baseline for c in family(None, {"q": "q", "term": "term"}, [1.0])} == {"q"}
    assert family(None, {"q": "q"}, [1.0]) == ()
    assert family(None, STRATEGIES, [INF, "clip-only"]) == ()


def test_the_default_baseline_is_fedtolls_fedavg_whatever_its_label():
    ours = {"uniform": "uniform", "FedAvg": "fedtoll.strategies.fedavg:FedAvg"}
    assert {c.baseline for c in family(None, ours, [1.0])} == {"FedAvg"}
    users = {"uniform": "uniform", "fedavg": "mine.py:fedavg"}
    assert {c.baseline for c in family(None, users, [1.0])} == {"uniform"}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"baseline": "fedav"}, "compare.baseline = 'fedav': .*did you mean 'fedavg'"),
        ({"strategies": ("unifrom",)}, "compare.strategies = 'unifrom': .*did you mean 'uniform'"),
        ({"strategies": ("term",)}, r"could be 'term\(t=5\)' and 'term\(t=1\)'"),
        ({"strategies": ("fedavg",)}, "is the baseline itself"),
        ({"epsilons": (3.0,)}, r"epsilons = 3: not in privacy.epsilons, whose finite values are 8, 0\.5"),
    ],
)
def test_a_family_names_what_the_scenario_has(section, words):
    with pytest.raises(ScenarioError, match=words):
        family(Compare(**section), STRATEGIES, [INF, 8.0, 0.5])


def test_a_declared_toll_gap_needs_runs_without_privacy():
    with pytest.raises(ScenarioError, match=r"compare.quantities = 'toll gap': needs runs at ε = ∞"):
        family(Compare(quantities=("toll gap", "utility")), STRATEGIES, [8.0, 0.5])
    assert family(Compare(quantities=("utility",)), STRATEGIES, [8.0, 0.5])
    assert family(Compare(quantities=("toll gap",)), STRATEGIES, [INF, 8.0, 0.5])


def test_the_library_declares_four_of_twenty_five():
    scenario = read("adult-race")
    made = family(scenario.compare, {s.label: s.name for s in scenario.strategies}, scenario.privacy.epsilons)
    assert len(made) == 4
    assert {(c.baseline, c.epsilon, c.measure) for c in made} == {("fedavg", 0.5, "log_loss")}
    assert (most(10), unreachable(4, 10)) == (25, "")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ('measure = "log_los"', "compare.measure = 'log_los': unknown; did you mean 'log_loss'?"),
        ('quantity = ["utility"]', "compare.quantity: unknown key; did you mean 'quantities'?"),
        ('quantities = ["toll_gap"]', "quantities[0] = 'toll_gap': unknown; did you mean 'toll gap'?"),
        ("quantities = []", "compare.quantities = []: "),
        ('strategies = ["uniform", "uniform"]', "the same value twice"),
        ("epsilons = [-1.0]", "compare.epsilons[0] = -1.0"),
        ('baseline = "fedavgg"', "compare.baseline = 'fedavgg': not a strategy of this scenario"),
    ],
)
def test_a_mistake_is_one_line_that_begins_with_the_file(tmp_path, section, words):
    with pytest.raises(ScenarioError) as caught:
        declared(tmp_path, section)
    assert str(caught.value).startswith("mine.toml: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_declared_family_that_the_seeds_cannot_reach_is_refused(tmp_path):
    few = BASE.replace('"0:10"', '"0:5"')
    (tmp_path / "few.toml").write_text(few)
    with pytest.raises(
        ScenarioError, match=r"^few\.toml: compare: too few seeds: with 5 .* 6 are the fewest"
    ):
        read(str(tmp_path / "few.toml"))
    (tmp_path / "few.toml").write_text(BASE.replace('"0:10"', '"0:7"'))
    with pytest.raises(
        ScenarioError, match="compare: family too large: 7 seeds can bear 3 comparisons, these are 4"
    ):
        read(str(tmp_path / "few.toml"))


def test_check_and_run_refuse_it_too(here, tmp_path):
    (tmp_path / "few.toml").write_text(BASE.replace('"0:10"', '"0:5"'))
    for command in ("check", "run"):
        code, out, err = here(command, "few.toml")
        assert (code, out) == (2, "")
        assert err.startswith("fedtoll: few.toml: compare: too few seeds")
        assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["few.toml"]


def test_what_was_not_declared_is_not_refused(tmp_path):
    start, rest = BASE.split("[compare]", 1)
    text = f"{start}[[strategies]]{rest.split('[[strategies]]', 1)[1]}".replace('"0:10"', "[0]")
    (tmp_path / "mine.toml").write_text(text)
    assert read(str(tmp_path / "mine.toml")).compare is None


def test_another_question_on_the_command_line_leaves_the_family_to_the_default():
    assert read("adult-race", seeds="0:2").compare is None
    assert read("adult-race", ['strategies=[{name="term"}]']).compare is None
    assert read("adult-race", ["training.rounds=2"]).compare is not None
    assert read("adult-race", ['strategies=[{name="fedavg"}, {name="q-fedavg"}]']).compare is not None
    with pytest.raises(ScenarioError, match=r"adult-race\.toml: compare: too few seeds"):
        read("adult-race", ['compare.measure="tpr"'], seeds="0:2")


@pytest.mark.parametrize(
    ("overrides", "seeds"), [((), None), (("training.rounds=2",), None), ((), "0:2"), ((), "0:20")]
)
def test_another_question_does_not_hide_a_mistake_of_the_file(tmp_path, overrides, seeds):
    with pytest.raises(ScenarioError, match=r"^mine\.toml: compare\.strategies = 'trem': not a strategy"):
        declared(tmp_path, 'strategies = ["trem"]', *overrides, seeds=seeds)


def test_the_command_line_may_mend_a_family(tmp_path):
    mended = declared(tmp_path, 'strategies = ["trem"]', 'compare.strategies=["term"]')
    assert mended.compare is not None
    assert mended.compare.strategies == ("term",)
    (tmp_path / "few.toml").write_text(BASE.replace('"0:10"', '"0:5"'))
    assert read(str(tmp_path / "few.toml"), seeds="0:10").compare is not None
    with pytest.raises(ScenarioError, match=r"^few\.toml: compare: too few seeds: with 5 "):
        read(str(tmp_path / "few.toml"), seeds="0:4")


def test_a_mistake_under_another_question_is_one_line_on_stderr(here, tmp_path):
    (tmp_path / "mine.toml").write_text(BASE.replace("[compare]", '[compare]\nstrategies = ["trem"]'))
    code, out, err = here("run", "mine.toml", "--seeds", "0:2", "--dry-run")
    assert (code, out) == (2, "")
    assert err.startswith("fedtoll: mine.toml: compare.strategies = 'trem'")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("seeds", "words"), [(6, "bear 1 comparison, these"), (7, "bear 3 comparisons, these")]
)
def test_one_comparison_is_singular(seeds, words):
    assert words in unreachable(4, seeds)


def test_the_family_changes_no_run(runs, small):
    from fedtoll.server.plan import plan

    with_family = small.model_copy(update={"compare": Compare(measure="tpr")})
    assert [r.hash for r in plan(with_family, "x").runs] == [r.hash for r in plan(small, "x").runs]
    assert {r.hash for r in runs.values()} <= {r.hash for r in plan(small, "x").runs}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"measure": "tpr"}, "compare.measure = 'tpr': needs two classes, and the label has 10; use"),
        (
            {"quantities": ["equalised odds difference"]},
            "compare.quantities = 'equalised odds difference': needs",
        ),
    ],
)
def test_rates_of_positives_are_not_compared_with_more_than_two_classes(section, words):
    with pytest.raises(ScenarioError) as caught:
        check_classes(Compare(**section), 10)
    assert words in str(caught.value)
    check_classes(Compare(**section), 2)
    check_classes(Compare(measure="accuracy"), 10)
    check_classes(None, 10)

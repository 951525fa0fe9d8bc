"""The section "Who is exposed": its sentences follow from the numbers of the audit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fedtoll.audit.subject import settings
from fedtoll.report.exposure import audit_section


def row(group: str, epsilon: Any, advantage: float, attack: str = "lira") -> dict[str, Any]:
    return {
        "strategy": "fedavg",
        "mechanism": "none" if epsilon == "inf" else "dp-sgd",
        "epsilon": epsilon,
        "attack": attack,
        "group": group,
        "members": 200.0,
        "others": 200.0,
        "tpr": advantage,
        "fpr": 0.0,
        "advantage": advantage,
        "low": advantage - 0.01,
        "high": advantage + 0.01,
        "ceiling": 1.0 if epsilon == "inf" else 0.25,
    }


def disparity(epsilon: Any, value: float | None, by_chance_high: float) -> dict[str, Any]:
    least = row("White", epsilon, 0.0) | {"value": value, "most": "Other", "least": "White"}
    return least | {"by_chance": 0.03, "by_chance_high": by_chance_high}


@pytest.fixture
def section(results, tmp_path):
    def build(disparities: list[dict[str, Any]]) -> dict[str, Any]:
        groups = [("", 0.02), ("Other", 0.1), ("White", 0.0)]
        content = {
            "settings": settings(results.resolved["scenario"]),
            "checksums": ["a"],
            "model_digests": [""],
            "strategies": {"fedavg": {"path": "", "digest": "", "parameters": {}}},
            "seeds": [0, 1],
            "membership": [
                row(group, epsilon, advantage, attack)
                for epsilon in (0.5, "inf")
                for attack in ("lira", "loss")
                for group, advantage in groups
            ],
            "disparity": disparities,
            "canary": [],
            "over_claim": 0,
            "confidence": 0.95,
            "broken": False,
        }
        (tmp_path / "audit").mkdir()
        (tmp_path / "audit/audit.json").write_text(json.dumps(content), encoding="utf-8")
        plan = {"name": "fedavg", "path": "", "digest": "", "parameters": {}}
        run = {"checksum": "a", "model_digest": "", "strategy": plan}
        (tmp_path / "runs/0").mkdir(parents=True)
        (tmp_path / "runs/0/run.json").write_text(json.dumps(run), encoding="utf-8")
        resolved = {**results.resolved, "runs": [{"hash": "0"}]}
        section = audit_section(replace(results, folder=tmp_path, resolved=resolved))
        assert section is not None
        return section

    return build


def test_it_names_a_group_only_beyond_chance(section):
    found = section([disparity(0.5, 0.1, 0.06), disparity("inf", 0.1, 0.2)])
    by_chance = (
        "if all groups were equally exposed, the largest and the smallest advantage would differ by 0.030 "
        "on average"
    )
    ends = (
        "the attacker’s advantage is 0.100 (95% interval 0.090 to 0.110) for race “Other” and 0.000 "
        "(95% interval −0.010 to 0.010) for White"
    )
    assert found["sentences"][:3] == [
        f"Under fedavg at ε = 0.5, race “Other” is exposed most: {ends}; {by_chance}.",
        "At this ε, no attack can have an advantage above 0.250.",
        f"Under fedavg at ε = ∞, no group stands out: {ends}; {by_chance}.",
    ]


def test_its_chart_shows_each_groups_advantage_with_interval_and_ceiling(section):
    found = section([disparity(0.5, 0.1, 0.06)])
    (rows,) = found["chart"]["datasets"].values()
    assert {row["panel"] for row in rows} == {"ε = 0.5", "ε = ∞"}
    private = [row for row in rows if row["panel"] == "ε = 0.5"]
    assert [row["label"] for row in private] == ["race “Other”", "White", "everybody"]  # most exposed first
    assert [row["advantage"] for row in private] == [0.1, 0.0, 0.02]
    assert private[0]["interval"] == "0.090 to 0.110"
    assert {row["ceiling"] for row in rows} == {0.25, None}
    assert "race “Other” 0.100 (0.090 to 0.110) at ε = 0.5" in found["alternative"]


def test_it_says_that_the_models_have_the_recipe_if_the_results_are_tuned(section, results, monkeypatch):
    rows = [disparity(0.5, 0.5, 0.2)]
    monkeypatch.setitem(results.resolved, "tuning", [{"chosen": True}])
    assert "trained with the scenario’s own recipe, not with the constants chosen" in " ".join(
        section(rows)["sentences"]
    )


def test_it_compares_nothing_with_too_few_records(section):
    found = section([disparity(0.5, None, 0.06), disparity("inf", None, 0.2)])
    assert found["sentences"][0] == (
        "Fewer than two groups have enough records to compare how exposed they are."
    )


def test_its_tables_name_groups_as_the_rest_of_the_page(section):
    membership, _ = section([disparity(0.5, 0.1, 0.06)])["tables"]
    assert [r.cells[0].text for r in membership.rows] == ["everybody", "race “Other”", "White"] * 2
    assert [r.everybody for r in membership.rows] == [True, False, False] * 2

"""docs/findings.md says what the code says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

from fedtoll.findings import VERDICTS
from fedtoll.scenarios.claims import Claim, Kind, QuantityName
from fedtoll.scenarios.read import findings, read, validate

GUIDE = (Path(__file__).parents[2] / "docs/findings.md").read_text(encoding="utf-8")


def test_every_finding_kind_quantity_and_verdict_is_documented():
    rows = re.findall(r"^\| `([\w-]+)` \|", GUIDE, re.M)
    assert set(rows) == {*findings(), *get_args(Kind)}
    for word in (*get_args(QuantityName), "rises", "falls", "peaks", "flat"):
        assert f"`{word}`" in GUIDE
    for verdict in VERDICTS:
        assert f"\n{verdict}\n: " in GUIDE


def test_the_example_is_a_claim_of_the_built_in_finding():
    (text,) = re.findall(r"^```toml\n(.*?)^```$", GUIDE, re.M | re.S)
    scenario = read("imbalance-makes-it").model_dump(mode="json", exclude_none=True)
    example = tomllib.loads(text)
    validate({**scenario, **example, "tune": None}, "docs/findings.md")
    (claim,) = example["claim"]
    ours = next(c for c in read("imbalance-makes-it").claim if c.says == claim["says"])
    parsed = Claim.model_validate(claim)
    assert (parsed.published, parsed.a, parsed.b, parsed.epsilon) == (
        ours.published,
        ours.a,
        ours.b,
        ours.epsilon,
    )


def test_the_python_example_uses_names_that_exist():
    from fairlearn.reductions import DemographicParity, GridSearch

    from fedtoll.sklearn import DPClassifier

    (code,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S)
    assert "from fedtoll.sklearn import DPClassifier" in code
    classifier = DPClassifier(epsilon=1.0, public_size=39_073)
    assert GridSearch(classifier, DemographicParity(), grid_size=71).grid_size == 71


def test_it_says_what_tuning_costs_and_how_it_biases():
    part = " ".join(GUIDE[GUIDE.index("## Does it survive?") : GUIDE.index("## The front")].split())
    for words in (
        "**not counted**",
        "no seed tests them",
        "tolls are biased downward",
        "differ by the constants alone",
    ):
        assert words in part
    assert "costs no privacy" not in (Path(__file__).parents[2] / "docs/scenario-file.md").read_text("utf-8")

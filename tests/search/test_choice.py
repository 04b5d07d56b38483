"""Plans as data."""

import pytest

from decascade.compression.plan.choice import Choice, Plan
from decascade.errors import UsageError

PLAN = Plan("macs", "MACs", 300.0, 200.0, (Choice("x", "y", ("a", "b"), "conv 3x3", 100.0, 200.0, 0.1, 0.02),), 3)


def test_a_plan_survives_json():
    assert Plan.from_json(PLAN.to_json()) == PLAN
    assert PLAN.speedup == 1.5
    assert PLAN.sensitivity == 0.02


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "choices": [{}]}', "{"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(UsageError, match=r"p\.json is no plan of decascade: .*: make it anew"):
        Plan.from_json(text, "p.json")


def test_plans_of_other_versions_and_missing_files(tmp_path):
    with pytest.raises(UsageError, match="p was written by another version of decascade: make it anew"):
        Plan.from_json('{"version": 0, "choices": []}', "p")
    with pytest.raises(UsageError, match=r"plan .*none\.json does not exist: check the name"):
        Plan.load(tmp_path / "none.json")
    (tmp_path / "p.json").write_text(PLAN.to_json())
    assert Plan.load(tmp_path / "p.json") == PLAN

"""The search for the largest speedup that keeps a promise."""

import pytest

from decascade.compression.plan.budget import CLOSE, largest_speedup


@pytest.mark.parametrize("limit", [1.05, 1.3, 1.5, 2.2, 3.9])
def test_the_search_closes_in_on_the_limit_from_below(limit):
    tried = []
    found = largest_speedup(lambda s: tried.append(s) or s, lambda s: s <= limit, 4.0, 12)
    assert found is not None
    assert limit / CLOSE <= found[0] <= limit
    assert found[0] == max(s for s in tried if s <= limit)


def test_no_more_rounds_than_allowed_and_nothing_where_nothing_holds():
    tried = []
    assert largest_speedup(lambda s: tried.append(s) or s, lambda s: False, 4.0, 3) is None
    assert len(tried) == 3
    assert tried == sorted(tried, reverse=True)


def test_a_model_that_cannot_be_sped_up_as_far_as_the_first_guess():
    assert largest_speedup(lambda s: s, lambda s: True, 1.2, 5) == (1.2, 1.2)

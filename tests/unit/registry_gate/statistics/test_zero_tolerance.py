"""Zero-tolerance lists: every state, and the bound that zero hits prove (METHOD.md 8.3)."""

from __future__ import annotations

import pytest

from registry_gate.statistics import zero_tolerance


@pytest.mark.parametrize(
    ("confirmed", "unconfirmed", "state", "sentence"),
    [
        (0, 0, "clean", "0 of 126: below 2.35 % with 95 % certainty"),
        (0, 2, "unconfirmed", "expected no bad answer of 126, got 2 that nobody confirmed: let a second grader"),
        (1, 0, "confirmed", "expected no bad answer of 126, got 1 that are confirmed"),
        (1, 5, "confirmed", "expected no bad answer of 126, got 1 that are confirmed"),
    ],
)
def test_each_state_has_its_sentence(confirmed, unconfirmed, state, sentence):
    found = zero_tolerance.judge(confirmed, unconfirmed, 126)
    assert found.state == state
    assert str(found).startswith(sentence)


@pytest.mark.parametrize(("probes", "bound"), [(26, 0.108830), (100, 0.029513), (126, 0.023495), (1200, 0.002493)])
def test_zero_hits_exclude_what_the_specification_says(probes, bound):
    assert zero_tolerance.judge(0, 0, probes).bound == pytest.approx(bound, abs=1e-6)


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 0, 5), (0, 6, 5), (3, 3, 5)])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match="expected"):
        zero_tolerance.judge(*counts)

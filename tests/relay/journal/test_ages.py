"""For how long the oldest record has waited."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.journal.ages import SPACING, Ages


def test_nothing_waits_at_first_and_when_all_is_written():
    ages = Ages()
    assert ages.oldest(0, 0, 10.0) == 0.0

    ages.note(1, 0, 10.0)
    assert ages.oldest(0, 1, 12.0) == 2.0
    assert ages.oldest(1, 1, 12.0) == 0.0


def test_an_age_begins_anew_when_all_was_written():
    ages = Ages()
    ages.note(1, 0, 10.0)
    ages.note(2, 1, 11.0)

    assert ages.oldest(1, 2, 12.0) == 1.0


def test_a_long_outage_costs_few_entries():
    ages = Ages()
    for second in range(1, 10_001):
        ages.note(second, 0, float(second))

    assert len(ages._since) <= 10_000 / SPACING
    assert ages.oldest(0, 10_000, 10_000.0) == 9_999.0
    assert 4_999.0 <= ages.oldest(5_000, 10_000, 10_000.0) <= 4_999.0 + SPACING
    assert "entries=" in repr(ages)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 20)), max_size=60))
def test_it_is_never_too_short_and_at_most_a_spacing_too_long(steps):
    ages, came, written, now = Ages(), [], 0, 0.0
    for is_record, seconds in steps:
        now += seconds
        if is_record:
            came.append(now)
            ages.note(len(came), written, now)
        elif written < len(came):
            written += 1
        right = now - came[written] if written < len(came) else 0.0
        assert right <= ages.oldest(written, len(came), now) + 1e-9
        assert ages.oldest(written, len(came), now) <= right + SPACING

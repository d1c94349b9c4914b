"""The auditor finds what is wrong, and says nothing of what is right."""

from __future__ import annotations

import pytest

from tests.chaos.audit import Verdict, compare, misnumbered

STORED = [
    ("assistant", "Hello."),
    ("user", "line 1"),
    ("assistant", "All right."),
    ("assistant", "What else?"),
    ("user", "line 2"),
    ("assistant", "All right."),
    ("assistant", "What else?"),
]
SEQS = [1, 2, 3, 4, 5, 6, 7]


def faults(told, stored=STORED, seqs=SEQS):
    verdict = compare(told, stored, seqs)
    return verdict.lost, verdict.doubled, verdict.disordered


@pytest.mark.parametrize("told", [STORED, STORED[:3], STORED[1:5], STORED[:2] + STORED[4:], []])
def test_what_is_there_once_and_in_order_is_right(told):
    assert faults(told) == (0, 0, 0)


def test_a_message_that_was_told_and_is_not_there_is_lost():
    without = [*STORED[:5], STORED[6]]

    assert faults(STORED, without, SEQS[:6]) == (1, 0, 0)


def test_all_that_hangs_on_a_lost_line_of_the_user_is_lost():
    without = [*STORED[:4], *STORED[5:]]

    assert faults(STORED, without, SEQS[:6]) == (3, 2, 0)


def test_a_message_that_is_there_twice_is_doubled():
    twice = [*STORED, ("assistant", "What else?")]

    assert faults(STORED, twice, [*SEQS, 8]) == (0, 1, 0)


def test_another_order_and_a_hole_in_the_numbers_are_disorder():
    swapped = [*STORED[:2], STORED[3], STORED[2], *STORED[4:]]

    assert faults(STORED, swapped) == (0, 0, 1)
    assert faults(STORED, STORED, [1, 2, 3, 4, 5, 6, 8]) == (0, 0, 1)


def test_a_leap_of_another_process_is_no_hole():
    assert faults(STORED, STORED, [1, 2, 3, 4, 1_000_005, 1_000_006, 1_000_007]) == (0, 0, 0)


def test_an_agent_of_another_process_may_answer_once_more_and_nobody_says_a_line_again():
    answer, again = STORED[2], [*STORED[:3], *STORED[2:4]]

    assert faults(again, again, [1, 2, 3, 1_000_004, 1_000_005]) == (0, 0, 0)
    assert faults(again, [*again, answer], [1, 2, 3, *range(1_000_004, 1_000_007)]) == (0, 1, 0)
    user = [*STORED[:2], STORED[1]]
    assert faults(user, user, [1, 2, 1_000_003]) == (0, 1, 0)
    late = [*STORED, STORED[1]]
    assert faults(STORED, late, [*SEQS, 1_000_008]) == (0, 1, 1)


def test_a_message_under_another_number_than_the_browser_knows_is_found():
    stored = dict(zip(SEQS, STORED, strict=True))

    assert misnumbered({2: STORED[1], 7: STORED[6]}, stored) == {}
    assert misnumbered({1: STORED[0], 3: STORED[3], 9: STORED[6]}, stored) == {
        3: STORED[3],
        9: STORED[6],
    }
    assert not Verdict(misnumbered=1).is_right

"""Every session that was kept here goes through the rules as it did when it was recorded.

`voice-relay replay FILE --save tests/recorded/NAME` keeps one. A rule that was changed on purpose
changes what is recorded: then the file is made again from the session, or goes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from control.replay import play

HERE = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(HERE.glob("*.ndjson")), ids=lambda path: path.stem)
def test_the_rules_do_what_was_recorded(path):
    played = play(path)

    assert played.events
    assert str(played.difference or "") == ""

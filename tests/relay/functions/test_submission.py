"""What the model is told of a call."""

import json

from relay.functions.submission import discarded, saved


def test_a_call_that_was_given_up_is_not_told_as_one_that_is_kept():
    assert json.loads(discarded())["status"] == "cancelled"
    assert json.loads(saved("the Orchestrator is away")) | {"detail": ""} == {
        "status": "saved",
        "detail": "",
        "because": "the Orchestrator is away",
    }

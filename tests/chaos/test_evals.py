"""All scenarios that ship, against the sandbox: those that it is not known to fail pass."""

from __future__ import annotations

import pytest

from tests.control.evals.test_eval import EVALS, evaluate

pytestmark = [pytest.mark.long, pytest.mark.speech, pytest.mark.timeout(1200)]


def test_all_scenarios_that_ship_pass_or_fail_as_known(tmp_path):
    names = sorted(path.stem for path in EVALS.glob("*.yaml"))

    done = evaluate(*names, arguments=["--last", tmp_path / "last.json"], seconds=1100)

    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout

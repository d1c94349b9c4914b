from relay.core.records import AgentTime, Figures, SessionEnded
from relay.telemetry.metrics import Metrics
from relay.telemetry.session_timing import SessionTiming
from tests.relay.conftest import BEGAN


def test_the_end_of_an_owner_says_the_last_of_its_agents_time(admitted):
    figures = Figures(
        browser_frames=0,
        browser_bytes=0,
        agent_frames=0,
        agent_bytes=0,
        latency=SessionTiming(Metrics()).latency,
        agent_seconds=7.5,
    )
    end = SessionEnded(
        session_id=admitted.session_id,
        reason="done",
        detail="",
        browser_code=1000,
        agent_code=1000,
        figures=figures,
        at=BEGAN,
        epoch=3,
    )
    assert end.agent_time == AgentTime(
        session_id=admitted.session_id, epoch=3, seconds=7.5, at=BEGAN
    )

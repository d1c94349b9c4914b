"""What has to hold, whatever breaks: the promises of docs/reliability.md as far as they are about
the rules, and not about sockets and bytes. A run that breaks one stops there."""

from __future__ import annotations

from relay.protocol.relay_events import IntentStatus

# What an accepted call comes to.
DONE = (IntentStatus.SUBMITTED, IntentStatus.CANCELLED)


class Broken(Exception):
    """A promise, and what was seen instead."""

    def __init__(self, promise: str, detail: str) -> None:
        super().__init__(f"{promise}: {detail}")
        self.promise = promise
        self.detail = detail


def check(world) -> None:
    """At the end, when all is well again and everything has come to rest."""
    check_sessions(world)
    check_messages(world)
    check_calls(world)
    check_goals(world)
    check_rest(world)


# What an agent may end a session with.
AGENT_ENDS = {"agent_unreachable", "agent_lost", "agent_error", "setup_timeout"}


def check_sessions(world) -> None:
    """9: who comes back to the relay that has the session has not lost it."""
    if not (world.is_mild and world.plan.stays) or AGENT_ENDS & set(world.ends):
        return
    if world.is_first_lost:  # its first ticket is used up, and it has no other one
        return
    if world.person.sessions > 1 or world.ends != ["browser_left"]:
        raise Broken("who comes back goes on", f"{world.ends} {world.refusals}")


def check_messages(world) -> None:
    """6 and 9: what the browser was told is stored, once, in order, under the number it knows."""
    person, database = world.person, world.database
    messages = database.messages[person.conversation_id]
    stored = {seq: (said.role, said.content) for seq, said in messages.items()}
    for seq, line in person.shown.items():
        if stored.get(seq) != line:
            raise Broken("told is stored", f"{seq}: told {line}, stored {stored.get(seq)}")
    for said in person.told:
        if said not in person.shown.values():
            raise Broken("told is stored", f"{said} has no number")
    words = [content for role, content in stored.values() if role == "user"]
    if len(set(words)) < len(words):
        raise Broken("nothing is doubled", f"{words}")
    if world.is_mild and person.sessions == 1:
        for seq, said in messages.items():
            is_late = world.instant(said.at) > person.gone_at - 1.0  # it had hung up
            if seq not in person.shown and not is_late:
                raise Broken("stored is told", f"{seq}: {said.content}")
        if list(sorted(stored)) != list(range(1, len(stored) + 1)):
            raise Broken("no gap", f"{sorted(stored)}")


def check_calls(world) -> None:
    """7 and 16: an accepted call is carried out once, or not at all if it was taken back."""
    arrived = world.orchestrator.goals
    standing = world.orchestrator.standing
    for row in world.database.calls.values():
        name = f"{row.record.arguments} {str(row.record.id)[-4:]}"
        in_doubt = row.taken_back and not world.plan.can_cancel
        if row.status is IntentStatus.FAILED and in_doubt:
            continue  # nobody can find out without doing it, and it says so
        if row.status not in DONE:
            raise Broken("calls are delivered", f"{name} is {row.status}")
        if row.status is IntentStatus.SUBMITTED and str(row.record.id) not in arrived:
            raise Broken("calls are delivered", f"{name} is said to be")
        if row.status is IntentStatus.CANCELLED and str(row.record.id) in standing:
            raise Broken("taken back is undone", f"{name} was carried out")
    known = {str(id) for id in world.database.calls}
    unknown = [goal for key, goal in arrived.items() if key not in known]
    if unknown:
        raise Broken("calls are stored", f"{unknown} were carried out")
    told = [id for id in world.person.accepted if id not in known]
    if told:
        raise Broken("calls are stored", f"the browser was told of {told}")
    done = [id for id in world.person.declined if str(id) in arrived]
    if done:
        raise Broken("what was declined is not done", f"{done}")


def check_goals(world) -> None:
    """8: an agent that takes the place of a lost one does not ask for what was asked for."""
    if not (world.is_mild and world.person.sessions == 1 and world.plan.can_cancel):
        return
    goals = sorted(world.orchestrator.standing.values())
    if len(set(goals)) < len(goals):
        raise Broken("a goal is asked for once", f"{goals}")


def check_rest(world) -> None:
    """3, 10 and 12: everything is stored, no session is left, no agent outlives its session."""
    for relay in world.relays:
        if left := relay.records_left:
            raise Broken("the journal empties", f"{relay.name} has {left} records")
        if relay.runners:
            raise Broken("sessions end", f"{relay.name} has {list(relay.runners.values())}")
    for row in world.database.sessions.values():
        if row.epoch and row.state != "ended":
            raise Broken("sessions end", f"session {row.number + 1} is {row.state}")
    left = [agent.name for agent in world.agents.sessions if agent.end.is_open]
    if left:
        raise Broken("no agent is left", f"{left}")

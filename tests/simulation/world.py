"""Two relays, a database, an Orchestrator, agents and a person: one run of a plan."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from config.limits import Limits
from tests.simulation import promises
from tests.simulation.agent import MUTE_SECONDS, Agents
from tests.simulation.calls import registry, wall_clock
from tests.simulation.clock import Clock
from tests.simulation.database import Database
from tests.simulation.orchestrator import Orchestrator
from tests.simulation.person import Person
from tests.simulation.plan import MILD, Fault, Plan
from tests.simulation.promises import Broken
from tests.simulation.relay import Relay

BEGAN = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LIMITS = Limits(
    setup_seconds=10.0, grace_seconds=20.0, audio_speed=0, idle_seconds=0.0, session_seconds=0.0
)
# Until a connection that is half open is found, the agent is back, and what is late has come.
SETTLING_SECONDS = 25.0
SOON_SECONDS = 3.0  # where nothing is half open
LAST_SECONDS = 900.0  # from the goodbye: a call may wait for 300 s, twice
LONGEST_SECONDS = 1_000.0
MUTE_BROWSER = 0.5, 21.0  # the person notices, and then the relay
MOST_LOST = 2  # agents of one turn, after which it need not be asked again


class World:
    """`say` is told each thing that happens."""

    def __init__(self, plan: Plan, say: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.clock = Clock(say)
        self.began = BEGAN
        self.limits = msgspec.structs.replace(LIMITS, roll_over_seconds=plan.roll_over_seconds)
        self.registry = registry(plan.can_cancel, plan.confirms)
        self.names: dict[UUID, str] = {}
        self._ids = self._tickets = 0
        self._network = self.chance("network")
        self.moments: Counter[str] = Counter()
        self._faults: dict[tuple[str, int], list[Fault]] = {}
        for fault in plan.faults:
            self._faults.setdefault((fault.moment, fault.count), []).append(fault)
        self.happened: list[tuple[float, Fault]] = []
        self.ends: list[str] = []  # why sessions did
        self.refusals: list[str] = []
        self.is_first_lost = False  # the browser did not get the first words of a session
        self.is_well = False
        self._healed_at = self._thawed_at = -100.0
        self.database = Database(self)
        self.orchestrator = Orchestrator(self)
        self.agents = Agents(self)
        self.relays = [Relay(self, "relay 1"), Relay(self, "relay 2")]
        self.person = Person(self)

    def run(self) -> None:
        """Raises `Broken`."""
        with wall_clock(lambda: self.began + timedelta(seconds=self.clock.now)):
            self._run()

    def _run(self) -> None:
        self.person.start()
        if not self.clock.run(lambda: self.person.is_gone, LONGEST_SECONDS):
            raise Broken("no session is silent", "the talk does not come to an end")
        last = self.clock.now + LAST_SECONDS
        self.clock.run(lambda: self._is_at_rest, last)
        promises.check(self)

    @property
    def _is_at_rest(self) -> bool:
        return (
            not any(relay.records_left or relay.runners for relay in self.relays)
            and not self.database.has_open_calls
            and all(
                not row.epoch or row.state == "ended" for row in self.database.sessions.values()
            )
            and not any(agent.end.is_open for agent in self.agents.sessions)
        )

    # --- luck ----------------------------------------------------------------------------------

    def chance(self, name: str) -> random.Random:
        """The luck of one who takes part: what others do does not change it."""
        return random.Random(f"{self.plan.seed} {name}")

    def between(self, least: float, most: float, chance: random.Random) -> float:
        """Seconds that something takes."""
        return least + (most - least) * (0.5 if self.plan.steady else chance.random())

    def delay(self) -> float:
        """Of something on the way."""
        if self.plan.steady:
            return 0.02
        luck = self._network.random()
        return 0.002 + 0.03 * luck if luck < 0.95 else 0.3 * (luck - 0.85)

    def new_id(self) -> UUID:
        self._ids += 1
        return UUID(int=self._ids)

    def new_ticket(self) -> str:
        self._tickets += 1
        return f"ticket-{self._tickets}"

    def name(self, id: UUID, kind: str) -> UUID:
        self.names[id] = f"{kind} {len(self.names) + 1}"
        return id

    def instant(self, at: datetime) -> float:
        return (at - self.began).total_seconds()

    # --- what breaks ---------------------------------------------------------------------------

    def moment(self, kind: str) -> None:
        """Something happens that a fault may wait for."""
        self.moments[kind] += 1
        if not self.is_well:
            for fault in self._faults.pop((kind, self.moments[kind]), ()):
                self.clock.later(fault.delay, self._strike, fault)

    def _strike(self, fault: Fault) -> None:
        if self.is_well:
            return
        self.clock.say("FAULT", f"{fault.kind} {fault.seconds or ''}")
        self.happened.append((self.clock.now, fault))
        person = self.person
        place = person.link.place
        relay = self.relays[1 - place if fault.elsewhere else place]
        agent = self.agents.of_newest()
        end = person.link.end or person.link.trying
        match fault.kind:
            case "agent reset" if agent:
                agent.end.wire.reset()
            case "agent error" if agent and agent.is_ready:
                agent.fail("FAILED_TO_THINK")
            case "agent mute" if agent:
                agent.end.wire.mute(MUTE_SECONDS)
            case "agent refuses":
                self.agents.is_refusing = True
            case "agent slow":
                self.agents.is_slow = True
            case "browser reset" if end:
                end.wire.reset()
            case "browser mute" if end:
                end.wire.mute(MUTE_BROWSER)
            case "browser away" if end:
                person.link.pause_until = self.clock.now + fault.seconds
                end.wire.reset()
            case "browser reload":
                person.link.reload()
            case "relay killed":
                relay.kill()
            case "relay frozen":
                relay.process.freeze()
            case "relay drained":
                relay.drain()
            case "database away":
                self.database.is_away = True
            case "database answer lost":
                self.database.lost_answers += 1
            case _ if fault.kind.startswith("orchestrator"):
                self.orchestrator.trouble = fault.kind.removeprefix("orchestrator ")
        self.clock.later(fault.seconds, self._mend, fault, relay)

    def _mend(self, fault: Fault, relay: Relay) -> None:
        match fault.kind:
            case "agent refuses":
                self.agents.is_refusing = False
            case "agent slow":
                self.agents.is_slow = False
            case "relay killed" | "relay drained" if not relay.process.is_alive:
                relay.start()
            case "relay drained":  # it has not stopped yet
                self.clock.later(0.5, self._mend, fault, relay)
            case "relay frozen":
                self._thawed_at = self.clock.now
                relay.process.thaw()
            case "database away":
                self.database.is_away = False
            case _ if fault.kind.startswith("orchestrator"):
                self.orchestrator.trouble = ""

    def heal(self) -> None:
        """From now on nothing breaks any more, and what is broken is mended."""
        if self.is_well:
            return
        self.clock.say("world", "nothing breaks any more")
        self.is_well = True
        self._healed_at = self.clock.now
        self.agents.is_refusing = self.agents.is_slow = False
        self.database.is_away, self.database.lost_answers = False, 0
        self.orchestrator.trouble = ""
        for relay in self.relays:
            if relay.process.is_frozen:
                self._thawed_at = self.clock.now
            relay.process.thaw()

    @property
    def is_settled(self) -> bool:
        """Nothing of what broke is still to be noticed."""
        hidden = "mute", "frozen", "slow", "late"
        is_hidden = any(fault.kind.endswith(hidden) for _, fault in self.happened)
        seconds = SETTLING_SECONDS if is_hidden else SOON_SECONDS
        return self.is_well and self.clock.now > self._healed_at + seconds

    def was_frozen(self, seconds: float) -> bool:
        """Within the last so many."""
        return self.clock.now - self._thawed_at < seconds

    @property
    def is_mild(self) -> bool:
        """Nothing happened to relays and database."""
        return all(fault.kind.startswith(MILD) for _, fault in self.happened)

    def owes_an_answer(self, since: float) -> bool:
        """Whether words that were said then have to be answered without another one."""
        lost = sum(
            fault.kind.startswith("agent") for at, fault in self.happened if at >= since - 30.0
        )
        return self.is_mild and self.person.sessions == 1 and lost <= MOST_LOST

    def notify(self, node: UUID | None) -> None:
        """The owner of a session is to look at its row."""
        for relay in self.relays:
            if relay.node == node and relay.process.is_alive:
                self.clock.later(self.delay(), relay.notice)

    def goodbye(self) -> None:
        """The person hangs up."""
        person = self.person
        person.clock.say("person", "says goodbye")
        person.is_gone, person.gone_at = True, self.clock.now
        if person.link.end is not None:
            person.link.end.close(1000)

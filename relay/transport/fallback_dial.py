"""Two ways to an agent: the second, in another region perhaps, where the first one fails."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from relay.transport import network_errors
from relay.transport.connection import Connection
from relay.transport.dial import Dial, DialFailed

log = logging.getLogger(__name__)

# After a failure of the first the second is dialled at once for so long: nobody waits each time for
# somebody who does not answer.
AWAY_SECONDS = 60.0
PASSING_STATUSES = {None, 408, 429, *range(500, 600)}  # what another try may mend


class FallbackDial:
    """A `Dial`. `seconds` is what the one that is tried first may take to answer."""

    def __init__(self, dial: Dial, fallback: Dial, seconds: float) -> None:
        self._dial = dial
        self._fallback = fallback
        self._seconds = seconds
        self._away_until = 0.0  # the first

    async def dial(self, connection: Connection) -> None:
        """Connect `connection` in one of the two ways. Raises `DialFailed` when both fail."""
        is_away = monotonic() < self._away_until
        first, second = self._dial, self._fallback
        if is_away:
            first, second = second, first
        try:
            await self._answered(first, connection)
            return
        except DialFailed as error:
            failed = error
        try:
            await second(connection)
        except DialFailed as error:
            both = [failed, error]
            # The caller tries again if that makes sense for one of them.
            worth = next((each for each in both if each.status in PASSING_STATUSES), failed)
            (other,) = [each for each in both if each is not worth]
            text = f"{worth}; the other agent: {other}"
            raise DialFailed(text, worth.status, worth.body, worth.retry_after) from None
        self._away_until = 0.0 if is_away else monotonic() + AWAY_SECONDS
        if not is_away:
            log.warning("agent_fallback reason=%s", failed)

    async def _answered(self, dial: Dial, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await dial(connection)
        except TimeoutError as error:
            if not connection.is_open:  # not in this very moment
                raise DialFailed(network_errors.explain(error)) from None

"""Who asks. The Litestar dependency `user` is a function that finds the user of a request; all else
is bound to the id that it gives, so another way to sign in is another such function.

Control plane. It takes the request and raises what `refuse` makes; docs/network.md has an example,
and control/app.py chooses by `RELAY_AUTH`:

* `mock`: `get_current_user`, everybody is the same user. For `dev`, and behind something else that
  lets nobody pass who should not.
* `jwt`: `Bearer.find_user` of jwt.py, the request's bearer token. The WebSocket has its tickets
  instead.
"""

from __future__ import annotations

import msgspec

from control.errors import ProblemError

USER_ID = "00000000-0000-4000-8000-000000000001"  # a UUID, as Supabase's auth.uid() would be


class User(msgspec.Struct, frozen=True):
    """`id` is what conversations are bound to: 1 to 255 characters."""

    id: str


async def get_current_user() -> User:
    """The mock: always the same user."""
    return User(USER_ID)


def refuse(detail: str, *, error: str | None = None) -> ProblemError:
    """A 401 as RFC 6750 has it."""
    challenge = 'Bearer realm="voice-relay"'
    if error is not None:
        challenge += f', error="{error}", error_description="{detail}"'
    return ProblemError(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})

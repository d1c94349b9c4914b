"""Who asks: the one place to put a real sign-in.

Control plane. Mocked: everybody is the same user. All else is bound to the id already, so a real
`get_current_user` (it may take `request`, and raise `ProblemError(401, ...)`) changes nothing
outside this file.
"""

from __future__ import annotations

import msgspec

USER_ID = "00000000-0000-4000-8000-000000000001"  # a UUID, as Supabase's auth.uid() would be


class User(msgspec.Struct, frozen=True):
    """`id` is what conversations are bound to: 1 to 255 characters."""

    id: str


async def get_current_user() -> User:
    """The Litestar dependency `user`."""
    return User(USER_ID)

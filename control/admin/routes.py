"""What administrators reach: `/admin/api` and the page `/admin`, on the address of the metrics.

Control plane. control/app.py mounts it there and gives handlers their dependencies by name.
"""

from __future__ import annotations

from pathlib import Path

from litestar import Router
from litestar.datastructures import ResponseHeader
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from control.admin import access, calls, costs, operations, people, timelines
from control.admin.access import Administrators
from control.api import web_client
from control.api.web_client import File

PREFIX = "/admin/api"
PAGE = Path(__file__).parent / "page"
# Of the client: what its pages look like, and the question before what cannot be undone.
SHARED = ("tokens.css", "style.css", "dialog.js", "icon.svg")


def list_admin_routes(administrators: Administrators) -> list[ControllerRouterHandler]:
    return [
        Router(
            PREFIX,
            route_handlers=[
                operations.SessionController,
                operations.NodeController,
                operations.get_state,
                operations.restore_condemned,
                operations.list_audit,
                calls.CallController,
                costs.list_costs,
                people.UserController,
            ],
            guards=[administrators.check],
            dependencies={"administrator": Provide(access.find, sync_to_thread=False)},
            response_headers=[ResponseHeader(name="Cache-Control", value="no-store")],
        ),
        Router(
            "/admin/sessions",
            route_handlers=[timelines.get_timeline],
            guards=[administrators.check],
            dependencies={"administrator": Provide(access.find, sync_to_thread=False)},
            response_headers=[ResponseHeader(name="Cache-Control", value="no-store")],
        ),
        web_client.serve_files(load_page()),
    ]


def load_page() -> dict[str, File]:
    """The files of the page by their paths. Anybody may have them: they know nothing."""
    client = web_client.load_files()
    files = {name: client[name] for name in SHARED} | web_client.load_files(PAGE)
    return {f"/admin/{name}".rstrip("/"): file for name, file in files.items()}

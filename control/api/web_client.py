"""Serves the web client: the files of relay/client, as they are, at the root of the server.

Control plane. They are read once, at the start, and each has its own route, so that no path of a
request ever becomes the path of a file. Browsers keep them and ask each time whether they are still
the same (ETag): after an update nobody runs half of the old client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from control.api.request_limits import UNCOUNTED

FOLDER = Path(__file__).parents[2] / "relay" / "client"
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}  # what is of another type, and each folder, is for who builds a page of their own
INDEX = "index.html"
WORKER = "worker.js"


class File(msgspec.Struct, frozen=True):
    content: bytes
    media_type: str
    etag: str


def load_files(folder: Path = FOLDER) -> dict[str, File]:
    """The files of a folder by the name in the URL; "" is the page itself."""
    files = {}
    for path in sorted(folder.iterdir()):
        if media_type := TYPES.get(path.suffix):
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            name = "" if path.name == INDEX else path.name
            files[name] = File(content, media_type, etag)
    if WORKER in files:
        files[WORKER] = _stamp(files[WORKER], files)
    return files


def _stamp(worker: File, files: dict[str, File]) -> File:
    """With a mark of them all: it is by this file that a browser knows another version."""
    mark = hashlib.sha256("".join(file.etag for file in files.values()).encode()).hexdigest()[:32]
    return File(worker.content + f"// {mark}\n".encode(), worker.media_type, f'"{mark}"')


def make_handler() -> HTTPRouteHandler:
    """The handler for all files of the client."""
    return serve_files({f"/{name}": file for name, file in load_files().items()})


def serve_files(files: Mapping[str, File]) -> HTTPRouteHandler:
    """A handler for files by their paths."""

    @get(list(files), include_in_schema=False, opt=UNCOUNTED, sync_to_thread=False)
    def get_file(request: Request[Any, Any, Any]) -> Response[bytes]:
        file = files[request.scope["path"]]
        headers = {"Cache-Control": "no-cache", "ETag": file.etag}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(b"", status_code=304, headers=headers, media_type=file.media_type)
        return Response(file.content, headers=headers, media_type=file.media_type)

    return get_file

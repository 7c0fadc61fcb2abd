"""As much of a Nextcloud server as its command line client wants to see: files in memory, spoken to in WebDAV.

It stands in for the real server, which Debian does not have; what is tried is the client, on the machine of the daemon.
"""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Self
from urllib.parse import quote, unquote, urlsplit
from xml.sax.saxutils import escape

USER = "somebody"
ROOT = f"/remote.php/dav/files/{USER}/"


@dataclass
class Cloud:
    """Use it as a context; it serves on a port of the loopback until the end."""

    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Path below the root, without a slash at its beginning: content and date in whole seconds."""
    folders: set[str] = field(default_factory=lambda: {""})

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Talk", (_Talk,), {"cloud": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def put(self, path: str, content: bytes, mtime: int) -> None:
        """Lay a file there as another client, or the web page, would."""
        for above in PurePosixPath(path).parents:
            self.folders.add("" if str(above) == "." else str(above))
        self.files[path] = content, mtime

    def remove(self, path: str) -> None:
        """Take away a file, or a folder and all in it."""
        self.files = {name: file for name, file in self.files.items() if not f"{name}/".startswith(f"{path}/")}
        self.folders = {name for name in self.folders if not f"{name}/".startswith(f"{path}/")}

    def etag(self, path: str) -> str:
        """A folder's changes with whatever lies below it."""
        below = f"{path}/" if path else ""
        told = self.files.get(path) or sorted((n, f) for n, f in self.files.items() if n.startswith(below))
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def listing(self, path: str) -> bytes:
        """Return the answer to PROPFIND for this path and what lies right in it."""
        here = [path] + [
            name for name in {*self.files, *self.folders} if name and name != path and _above(name) == path
        ]
        body = "".join(map(self._entry, here))
        return (
            '<?xml version="1.0"?><d:multistatus xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns">'
            f"{body}</d:multistatus>"
        ).encode()

    def _entry(self, path: str) -> str:
        content, mtime = self.files.get(path, (b"", 1_600_000_000))
        is_file = path in self.files
        kind = f"<d:getcontentlength>{len(content)}</d:getcontentlength>" if is_file else ""
        return (
            f"<d:response><d:href>{quote(ROOT + path)}{'' if is_file or not path else '/'}</d:href><d:propstat><d:prop>"
            f"<d:resourcetype>{'' if is_file else '<d:collection/>'}</d:resourcetype>{kind}"
            f"<d:getlastmodified>{formatdate(mtime, usegmt=True)}</d:getlastmodified>"
            f'<d:getetag>"{self.etag(path)}"</d:getetag><oc:size>{len(content)}</oc:size>'
            f"<oc:id>{escape(hashlib.sha256(path.encode()).hexdigest()[:12])}</oc:id>"
            f"<oc:permissions>{'RGDNVW' if is_file else 'RGDNVCK'}</oc:permissions>"
            "</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
        )


def _above(path: str) -> str:
    return path.rpartition("/")[0]


class _Talk(BaseHTTPRequestHandler):
    """One connection."""

    cloud: Cloud
    protocol_version = "HTTP/1.1"

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(ROOT).strip("/")

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        with suppress(ConnectionError):  # a client that was broken off
            self.end_headers()
            self.wfile.write(body)

    def do_GET(self) -> None:
        """Tell of the server, or give a file."""
        ocs = {
            "/status.php": {"installed": True, "maintenance": False, "version": "27.0.0.0", "productname": "Nextcloud"},
            "/ocs/v1.php/cloud/capabilities": _ocs({"version": {"major": 27}, "capabilities": {"dav": {}}}),
            "/ocs/v1.php/cloud/user": _ocs({"id": USER, "display-name": USER}),
        }.get(urlsplit(self.path).path)
        if ocs is not None:
            self._answer(200, json.dumps(ocs).encode())
        elif self._path() in self.cloud.files:
            etag = f'"{self.cloud.etag(self._path())}"'
            self._answer(200, self.cloud.files[self._path()][0], etag=etag, oc_etag=etag)
        else:
            self._answer(404)

    def do_PROPFIND(self) -> None:
        """List a folder."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        there = self._path() in self.cloud.folders or self._path() in self.cloud.files
        body = self.cloud.listing(self._path()) if there else b""
        self._answer(207 if there else 404, body, content_type="application/xml; charset=utf-8")

    def do_PUT(self) -> None:
        """Take a file."""
        content = self.rfile.read(int(self.headers["content-length"]))
        self.cloud.put(self._path(), content, int(self.headers.get("x-oc-mtime", 0)))
        etag = f'"{self.cloud.etag(self._path())}"'
        self._answer(201, etag=etag, oc_etag=etag, x_oc_mtime="accepted", oc_fileid="1")

    def do_MKCOL(self) -> None:
        """Make a folder."""
        self.cloud.folders.add(self._path())
        self._answer(201, oc_fileid=hashlib.sha256(self._path().encode()).hexdigest()[:12])

    def do_DELETE(self) -> None:
        """Take something away."""
        self.cloud.remove(self._path())
        self._answer(204)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _ocs(data: object) -> object:
    return {"ocs": {"meta": {"status": "ok", "statuscode": 100}, "data": data}}

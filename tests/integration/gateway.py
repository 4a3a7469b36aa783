"""A gateway before a tracking server, as companies have one, which refuses some requests."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Gateway"]

PAGE = b"<html><body>this is no answer of MLflow's</body></html>"


class Gateway:
    """Passes requests on to ``behind``, but for those to which ``refuses`` gives an HTTP status.

    ``refuses`` is called with the method, the path and the body of a request; 0 lets it pass.
    """

    def __init__(self, behind: str, refuses: Callable[[str, str, bytes], int]) -> None:
        self.behind = urlsplit(behind).netloc
        self.refuses = refuses
        gateway = self

        class Handler(_Handler):
            owner = gateway

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Gateway

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = self.owner.refuses(self.command, self.path, body)
        if status:
            self._answer(status, "text/html", PAGE)
            return
        server = http.client.HTTPConnection(self.owner.behind)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        server.request(self.command, self.path, body, headers)
        answer = server.getresponse()
        self._answer(answer.status, answer.headers.get("Content-Type", ""), answer.read())
        server.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

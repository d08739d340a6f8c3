"""Who may ask the inspector: the page that it served itself, with the token of this run. Everybody else is refused.

The token travels in the URL's fragment, which browsers send to nobody, and from there in a header that only the page's
own script sets. A cookie would go along with every request to 127.0.0.1, whatever its port and whoever caused it.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 65_536

HEADERS = {
    # No inline script or style, nothing from elsewhere, and no string is ever made into markup or code.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware: the right host, the right origin, and below ``/api/`` the token; else 4xx.

    Args:
        app: what it guards.
        token: what the page's script sends as ``Authorization: Bearer …``.
        port: where the server listens; host and origin have to name it.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":  # there is no WebSocket to be had
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
        await (refused or self._app)(scope, receive, send_with_headers)

    def _refusal(self, method: str, path: str, headers: Headers) -> JSONResponse | None:
        host, origin = headers.getlist("host"), headers.getlist("origin")
        if len(host) != 1 or host[0].lower() not in self._hosts:
            # A name of somebody else's that was pointed to this machine (DNS rebinding).
            return _refused(421, "This server answers as 127.0.0.1 and localhost only.")
        if origin and (len(origin) != 1 or origin[0] not in self._origins):
            return _refused(403, "Requests from other pages are refused.")
        if not path.startswith("/api/"):
            return None  # the page itself, which knows nothing
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _refused(403, "Requests from other pages are refused.")
        if not self._knows_token(headers.getlist("authorization")):
            return _refused(401, "The token is missing or wrong. Open the URL that nextmem inspect printed.")
        if method not in ("GET", "HEAD") and not origin:
            return _refused(403, "A change has to come from the inspector's own page.")
        if not headers.get("content-length", "0").isdigit() or "transfer-encoding" in headers:
            return _refused(411, "A request has to say how long it is.")
        if int(headers.get("content-length", "0")) > MAX_BODY:
            return _refused(413, f"A request may have {MAX_BODY} bytes.")
        return None

    def _knows_token(self, values: Sequence[str]) -> bool:
        return len(values) == 1 and hmac.compare_digest(values[0].encode(), b"Bearer " + self._token)


def _refused(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)

"""What reaches the server at all: the paths the demo needs, bodies of a bounded size, and no address to be fetched.

Gradio answers on many more paths than one app uses. Those that fetch an address, record a screen or count visitors are
closed here, before they are reached; a question that names an address instead of an uploaded file is refused.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from widgets.demo.desk import Desk, words
from widgets.demo.line import Busy
from widgets.demo.uploads import Uploads
from workbench import __version__
from workbench.errors import WorkbenchError

__all__ = ["Guard", "routes"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_NO_ROOM = "There is no room for more files now. Please try again in some minutes."
_PATIENCE_S = 3.0  # room is kept that long for the next bytes of an upload
_BODY = 4 << 20  # bytes of a question: a prompt of a megabyte is to be refused in words, not cut off
_OPEN = re.compile(
    r"/(?:|config/?|health|login/?|logout|favicon\.ico|robots\.txt|manifest\.json|theme\.css|pwa_icon(?:/\d+)?"
    r"|(?:static|assets|svelte|workbench)/.*"
    r"|gradio_api/(?:info/?|app_id/?|user/?|token/?|login_check/?|theme\.css|startup-events|upload|upload_progress"
    r"|cancel|reset/?|queue/(?:join|data|status)|heartbeat/[^/]+|(?:call|run|api)/.*|file=.*))"
)
_ASKS = re.compile(r"/gradio_api/(?:queue/join|cancel|reset/?|(?:call|run|api)/.*)")
_CALLS = re.compile(r"/gradio_api/(?:queue/join|(?:call|run|api)/[^/]*)/?")
_ADDRESS = re.compile(r'"path"\s*:\s*"\s*(?:[a-z][a-z0-9+.-]+:|\\*/\\*/)', re.IGNORECASE)  # not C:
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"SAMEORIGIN"),
)


@dataclass(eq=False)
class _Coming:
    """An upload: the bytes that are still to come, and when the last ones came that there was room for."""

    left: int
    since: float = -math.inf

    def comes(self) -> bool:
        """Whether room is kept for it: whoever announces an upload and sends nothing, or no more, holds none."""
        return time.monotonic() - self.since < _PATIENCE_S


class Guard:
    """An ASGI middleware in front of Gradio.

    Args:
        app: What is guarded.
        desk: Whose limits hold, and whose uploads may be named.
    """

    def __init__(self, app: Any, desk: Desk) -> None:
        self.app, self.desk = app, desk
        self._looked, self._held, self._since = 0.0, 0, 0
        self._coming: list[_Coming] = []
        self._looking = asyncio.Lock()  # no byte is taken while it is looked how many there are: none counts twice

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with the reason why not."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if not _OPEN.fullmatch(path) or re.match(r"/gradio_api/file=\s*[a-z][a-z0-9+.-]+:/", path, re.IGNORECASE):
            await _refuse(send, 404, "There is nothing here.")
            return
        if scope["method"] == "POST":
            if path == "/gradio_api/upload":
                limit = self.desk.limits.upload * max(self.desk.limits.pictures, self.desk.limits.sounds)
                announced = _length(scope)
                if announced is None or announced > limit + _BODY:
                    await _refuse(send, 413, f"Files of more than {limit / 1e6:.0f} MB in all are not taken.")
                    return
                async with self._looking:
                    full = await self._full(announced)
                if full:
                    await _refuse(send, 503, _NO_ROOM)
                else:
                    await self._upload(scope, receive, send, announced)
                return
            if _ASKS.fullmatch(path):
                body = await _read(receive, _length(scope))
                if body is None:
                    await _refuse(send, 413, f"More than {_BODY >> 20} MB at once is not taken: ask with less.")
                    return
                if _ADDRESS.search(body.decode("utf-8", "replace").replace("\\/", "/")):
                    await _refuse(send, 400, "No address is fetched: upload the file itself.")
                    return
                wrong = _unfit(scope["app"], path, body, self.desk.uploads)
                if wrong and _may_ask(scope):  # else Gradio asks for the password
                    await _refuse(send, 400, wrong)
                    return
                receive = _again(body, receive)

        await self.app(scope, receive, _headed(send))

    async def _upload(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, announced: int) -> None:
        """Let an upload through; where Gradio fails at reading it, as at a file without a name, say so in words."""
        from starlette.requests import ClientDisconnect

        started = full = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await _headed(send)(message)

        async def counted() -> Message:
            """The next bytes, if there is room for all that is still to come."""
            nonlocal full
            message = await receive()
            full = full or not await self._room(mine)
            if full:
                return {"type": "http.disconnect"}
            size = len(message.get("body", b""))
            self._since += size
            mine.left = max(0, mine.left - size)
            return message

        mine = _Coming(announced)
        self._coming.append(mine)
        try:
            with self.desk.uploads.writing():
                await self.app(scope, counted, watched)
        except ClientDisconnect:
            if full and not started:
                await _refuse(send, 503, _NO_ROOM)
            return  # else broken off: nobody is left to tell
        except (ValueError, TypeError, AttributeError, KeyError, IsADirectoryError):
            if started:
                raise
            await _refuse(send, 400, "This upload cannot be read: send files as multipart/form-data, each with a name.")
        finally:
            self._coming.remove(mine)

    async def _room(self, upload: _Coming) -> bool:
        """Whether there is room for the rest of an upload, which is then kept for it while its bytes go on coming.

        So of many at once the first ones come in whole: if each took its share, none would.
        """
        async with self._looking:
            if not upload.comes():
                upload.since = -math.inf  # what is left of it is not to count twice
                if await self._full(upload.left):
                    return False
            upload.since = time.monotonic()
            return True

    async def _full(self, more: int) -> bool:
        """Whether so many more bytes are too many, beside those here (looked up now and then), come since or coming."""
        if time.monotonic() - self._looked > 2:
            self._held = await asyncio.to_thread(self.desk.uploads.bytes)
            self._looked, self._since = time.monotonic(), 0
        coming = sum(upload.left for upload in self._coming if upload.comes())
        return self._held + self._since + coming + more > self.desk.limits.disk


def routes(desk: Desk) -> list[Any]:
    """The demo's own addresses: ``/health``, and under ``/workbench/`` what a ticket opens."""
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    private = {"Cache-Control": "private, no-store"}

    def address(request: Request) -> str:
        return client(request.headers, request.client.host if request.client else "")

    def told(error: Exception) -> JSONResponse:
        status = 429 if isinstance(error, Busy) else 404 if isinstance(error, WorkbenchError) else 500
        return JSONResponse({"error": words(error)}, status, headers=private)

    async def health(_request: Request) -> JSONResponse:
        return JSONResponse(
            {"ok": True, "version": __version__, "model": desk.model.info.name, "in_line": len(desk.line.places),
             "most_in_line": desk.limits.waiting, "answered": desk.answered},
            headers={"Cache-Control": "no-store"},
        )  # fmt: skip

    async def views(request: Request) -> Response:
        try:
            made = await desk.look(
                request.path_params["ticket"], lambda run, _: run.views(), address(request), model=False
            )
        except Exception as error:  # noqa: BLE001 (whatever it is: told in words that give nothing away)
            return told(error)
        return JSONResponse(made, headers=private)

    async def ask(request: Request) -> Response:
        from widgets.demo.runs import ASKED_OF_THE_MODEL

        body = await request.body() if (_length(request.scope) or _BODY) <= 4096 else b""
        question = _json(body)
        if not isinstance(question, dict):
            return JSONResponse({"error": "Expected a question as JSON, of 4 kB at most."}, 400)
        runs_model = question.get("ask") in ASKED_OF_THE_MODEL
        try:
            value = await desk.look(
                request.path_params["ticket"],
                lambda run, stop: run.answer(question, stop),
                address(request),
                model=runs_model,
            )
        except Exception as error:  # noqa: BLE001 (whatever it is: told in words that give nothing away)
            return told(error)
        return JSONResponse({"value": value}, headers=private)

    async def trace(request: Request) -> Response:
        try:
            data = await desk.look(request.path_params["ticket"], lambda run, stop: run.file(stop), address(request))
        except Exception as error:  # noqa: BLE001 (whatever it is: told in words that give nothing away)
            return told(error)
        named = {"Content-Disposition": 'attachment; filename="answer.trace"', **private}
        return Response(data, media_type="application/octet-stream", headers=named)

    async def page(request: Request) -> Response:
        try:
            text = await desk.look(request.path_params["ticket"], lambda run, stop: run.page(stop), address(request))
        except Exception as error:  # noqa: BLE001 (whatever it is: told in words that give nothing away)
            return told(error)
        named = {"Content-Disposition": 'attachment; filename="answer.html"', **private}
        return HTMLResponse(text, headers=named)

    return [
        Route("/health", health),
        Route("/workbench/{ticket}/views", views),
        Route("/workbench/{ticket}/ask", ask, methods=["POST"]),
        Route("/workbench/{ticket}/answer.trace", trace),
        Route("/workbench/{ticket}/answer.html", page),
    ]


def client(headers: Any, peer: str) -> str:
    """A visitor's network address; behind a tunnel, which ends on this machine, what the tunnel says it is."""
    told = str(headers.get("x-forwarded-for") or "").rsplit(",", 1)[-1].strip()
    return told[:64] if told and peer in ("127.0.0.1", "::1") else peer


def _may_ask(scope: MutableMapping[str, Any]) -> bool:
    """Whether no password is asked for, or a request has what looks like one's token."""
    cookies = b"".join(value for name, value in scope.get("headers", []) if name.lower() == b"cookie")
    return scope["app"].auth is None or b"access-token" in cookies


def _unfit(app: Any, path: str, body: bytes, uploads: Uploads) -> str:
    """Why a body cannot be a question to the app's functions; empty when it may be one.

    Gradio itself answers an unknown function with a failure of the server, and too few values with its own insides.
    """
    asked = _json(body)
    if _strays(asked, uploads):
        return "A file is uploaded first, to /gradio_api/upload, and asked about under the path that this answers."
    if not _CALLS.fullmatch(path):
        return ""
    if not isinstance(asked, dict):
        return "Expected a question as JSON."
    functions = app.get_blocks().fns
    number, name = asked.get("fn_index"), path.rsplit("/", 1)[-1]
    function = functions.get(number) if isinstance(number, int) else None
    if function is None and number is None and not path.endswith("queue/join"):
        function = next((one for one in functions.values() if one.api_name == name), None)
    if function is None:
        return "There is no such function here; /gradio_api/info lists what there is."
    data = asked.get("data")
    if not isinstance(data, list) or len(data) < len(function.inputs):
        came = f"{len(data)} came" if isinstance(data, list) else "no list came"
        return (
            f'"data" is a list of {len(function.inputs)} values, in the order of /gradio_api/info; {came}. '
            "null leaves one out."
        )
    return ""


def _strays(value: Any, uploads: Uploads) -> bool:
    """Whether a question names a file that is not among the uploads, wherever in it.

    Gradio would answer with this server's paths. What has another form reaches the desk, which says why not.
    """
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            path = one.get("path")
            if isinstance(path, str) and not uploads.allows(path):
                return True
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return False


def _json(body: bytes) -> Any:
    """What a body says; None where it is no JSON (which has no Infinity and no NaN), or nested beyond reason."""
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _length(scope: MutableMapping[str, Any]) -> int | None:
    for name, value in scope.get("headers", []):
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None


async def _read(receive: Receive, announced: int | None) -> bytes | None:
    """A request's body; None if it is too large."""
    if announced is not None and announced > _BODY:
        return None
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        part = message.get("body", b"")
        size += len(part)
        if size > _BODY:
            return None
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def _headed(send: Send) -> Send:
    """Send with the headers that every answer has."""

    async def headed(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", [])}
            more = [pair for pair in _HEADERS if pair[0] not in there]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return headed


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to whoever reads it next."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, status: int, words: str) -> None:
    body = json.dumps({"detail": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

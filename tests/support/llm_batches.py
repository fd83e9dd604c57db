"""The Batch API of the test server: files of requests in, files of answers out, at the pace and with the faults set."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from tests.support.llm_faults import Json

Answering = Callable[[Json], Json]


@dataclass
class BatchPlan:
    """How batches go: ``n_polls`` looks until the end, and the ``end``.

    ``failed``: refused as a whole, nothing is answered; ``expired``: every second request was not reached in time, as
    where a batch is cancelled. Each ``failing_every``-th request of any batch is answered with an error.
    ``n_uploads_refused`` and ``n_creations_refused``: so many of the next are answered 500; ``n_lost_creations``: made,
    but the answer is lost.
    """

    n_polls: int = 2
    end: Literal["completed", "failed", "expired"] = "completed"
    failing_every: int = 0
    n_uploads_refused: int = 0
    n_creations_refused: int = 0
    n_lost_creations: int = 0


@dataclass
class Hold:
    """Withholds the answer to ``step`` once that is done, until ``released``; ``reached`` says that one is withheld.

    ``upload``, ``create``, ``poll`` or ``content``; of a ``content`` the first ``n_lines`` are sent.
    """

    step: Literal["upload", "create", "poll", "content"]
    n_lines: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep(self) -> None:
        """Say so, and wait."""
        self.reached.set()
        await self.released.wait()


@dataclass
class _Batch:
    document: Json
    requests: list[Json]
    plan: BatchPlan
    n_polls: int = 0


@dataclass
class Batches:
    """Keeps files and batches; ``paid`` counts answered requests by ``custom_id``, over all batches.

    ``n_uploads`` and ``n_creations`` count those that were done, whether or not their answer came through; there is
    no such API where not ``is_there``.
    """

    answer: Answering
    plan: BatchPlan = field(default_factory=BatchPlan)
    paid: dict[str, int] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, _Batch] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    n_uploads: int = 0
    n_creations: int = 0
    is_there: bool = True
    hold: Hold | None = None

    def add_routes(self, app: web.Application) -> None:
        """Serve under ``/v1``, and ``POST /batch_plan``: the fields of ``BatchPlan`` in, what is paid out."""
        app.router.add_post("/batch_plan", self._set_plan)
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files", self._list_files)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_delete("/v1/files/{id}", self._delete)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._poll)
        app.router.add_post("/v1/batches/{id}/cancel", self._cancel)

    async def _set_plan(self, request: web.Request) -> web.Response:
        self.plan = BatchPlan(**await request.json())
        return web.json_response({"paid": self.paid})

    async def _upload(self, request: web.Request) -> web.Response:
        if self.plan.n_uploads_refused:
            self.plan.n_uploads_refused -= 1
            return _error(500, "server_error")
        form = await request.post()
        file = form["file"]
        if form.get("purpose") != "batch" or not isinstance(file, web.FileField):
            return _error(400, "invalid_purpose")
        with file.file as content:
            file_id = self._kept(content.read())
        self.names[file_id] = file.filename
        self.n_uploads += 1
        await self._held("upload")
        return web.json_response(_file(file_id, file.filename))

    async def _held(self, step: str) -> None:
        if self.hold is not None and self.hold.step == step:
            await self.hold.keep()

    async def _list_files(self, request: web.Request) -> web.Response:
        newest_first = [_file(file_id, name) for file_id, name in reversed(self.names.items()) if file_id in self.files]
        return _page(request, newest_first)

    def _kept(self, content: bytes) -> str:
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = content
        return file_id

    async def _content(self, request: web.Request) -> web.StreamResponse:
        content = self.files.get(request.match_info["id"])
        if content is None:
            return _error(404, "file_not_found")
        if self.hold is not None and self.hold.step == "content":
            return await self._held_content(request, self.hold, content)
        return web.Response(body=content)

    async def _held_content(self, request: web.Request, hold: Hold, content: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"".join(content.splitlines(keepends=True)[: hold.n_lines]))
        await hold.keep()
        return response

    async def _delete(self, request: web.Request) -> web.Response:
        file_id = request.match_info["id"]
        deleted = self.files.pop(file_id, None) is not None
        return web.json_response({"id": file_id, "object": "file", "deleted": deleted})

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if self.plan.n_creations_refused:
            self.plan.n_creations_refused -= 1
            return _error(500, "server_error")
        if (content := self.files.get(asked["input_file_id"])) is None:
            return _error(404, "file_not_found")
        batch = self._created(asked, [json.loads(line) for line in content.splitlines() if line.strip()])
        await self._held("create")
        if self.plan.n_lost_creations:
            self.plan.n_lost_creations -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(batch.document)

    def _created(self, asked: Json, requests: list[Json]) -> _Batch:
        document: Json = {
            "id": f"batch_{len(self.batches) + 1}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(time.time()),
            "request_counts": {"total": len(requests), "completed": 0, "failed": 0},
            "metadata": asked.get("metadata"),
        }
        self.n_creations += 1
        batch = self.batches[str(document["id"])] = _Batch(document, requests, self.plan)
        return batch

    async def _list(self, request: web.Request) -> web.Response:
        if not self.is_there:
            return _error(404, "unknown_url")
        newest_first = [batch.document for batch in reversed(self.batches.values())]
        return _page(request, newest_first)

    async def _poll(self, request: web.Request) -> web.Response:
        if (batch := self.batches.get(request.match_info["id"])) is None:
            return _error(404, "batch_not_found")
        if batch.document["status"] in ("validating", "in_progress"):
            batch.n_polls += 1
            batch.document["status"] = "in_progress"
            if batch.n_polls >= batch.plan.n_polls:
                self._end(batch, batch.plan.end)
        await self._held("poll")
        return web.json_response(batch.document)

    async def _cancel(self, request: web.Request) -> web.Response:
        if (batch := self.batches.get(request.match_info["id"])) is None:
            return _error(404, "batch_not_found")
        if batch.document["status"] in ("validating", "in_progress"):
            self._end(batch, "cancelled")
        batch.document["status"] = "cancelled"
        return web.json_response(batch.document)

    def _end(self, batch: _Batch, end: str) -> None:
        batch.document["status"] = end
        if end == "failed":
            error = {"code": "invalid_json_line", "message": "a line is no request", "param": None, "line": 1}
            batch.document["errors"] = {"object": "list", "data": [error]}
            return
        lines = [self._line(batch.plan, end, place, request) for place, request in enumerate(batch.requests, 1)]
        answered, failed = ([line for line in lines if (line["error"] is None) is ok] for ok in (True, False))
        counts = {"total": len(lines), "completed": len(answered), "failed": len(failed)}
        batch.document.update(
            request_counts=counts,
            output_file_id=self._kept(_jsonl(answered)) if answered else None,
            error_file_id=self._kept(_jsonl(failed)) if failed else None,
        )

    def _line(self, plan: BatchPlan, end: str, place: int, request: Json) -> Json:
        name, body = str(request["custom_id"]), request["body"]
        line: Json = {"id": f"batch_req_{place}", "custom_id": name, "response": None, "error": None}
        if end in ("expired", "cancelled") and place % 2 == 0:
            return {**line, "error": {"code": f"batch_{end}", "message": "not executed"}}
        if plan.failing_every and place % plan.failing_every == 0:
            refused = {"status_code": 400, "request_id": "r", "body": {"error": {"code": "invalid_request_error"}}}
            return {**line, "response": refused, "error": {"code": "invalid_request_error", "message": "refused"}}
        assert isinstance(body, dict)
        self.paid[name] = self.paid.get(name, 0) + 1
        return {**line, "response": {"status_code": 200, "request_id": f"req_{place}", "body": self.answer(body)}}


def _page(request: web.Request, newest_first: list[Json]) -> web.Response:
    after = request.query.get("after")
    first = next((place for place, each in enumerate(newest_first, 1) if each["id"] == after), 0)
    rest = newest_first[first:]
    data = rest[: int(request.query.get("limit", "20"))]
    return web.json_response({"object": "list", "data": data, "has_more": len(data) < len(rest)})


def _file(file_id: str, filename: str) -> Json:
    return {"id": file_id, "object": "file", "purpose": "batch", "filename": filename, "status": "processed"}


def _jsonl(lines: list[Json]) -> bytes:
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def _error(status: int, code: str) -> web.Response:
    return web.json_response({"error": {"message": code, "code": code}}, status=status)

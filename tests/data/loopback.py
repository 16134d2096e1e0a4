"""A web server on this machine for tests, which misbehaves as it is told: by path, and by attempt."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from iwin.data.index import index_path, write_index

# What an answer may be besides a status (as 503), which is sent with an empty body.
CUT = "cut"  # closes in the middle of what it said it would send
SHORT = "short"  # says and sends half of the file
LONG = "long"  # sends a byte more than the file has
FLIPPED = "flipped"  # one bit is another
RESET = "reset"  # closes without an answer
STALLED = "stalled"  # sends half, and then nothing until the test ends
GATED = "gated"  # sends half, and the rest when the test opens the gate


class Loopback:
    """url: of the server. files: by path, as "/in1k/a.tar". plans: what to do at the first attempts of a path.

    asked: the number of requests by path; order: the paths in the order of the requests. headers: of the last one.
    reached: counts up when a gated answer has sent its first half; gate: lets them all send the second.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.plans: dict[str, list[str | int]] = {}
        self.asked: Counter[str] = Counter()
        self.order: list[str] = []
        self.headers: dict[str, str] = {}
        self.gate, self.over = threading.Event(), threading.Event()
        self.reached = 0
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def next_answer(self, path: str, headers: dict[str, str]) -> str | int:
        """Count the request, and say what this attempt gets: 200 where nothing else is planned."""
        with self._changed:
            self._changed.notify_all()
            self.asked[path] += 1
            self.order.append(path)
            self.headers = headers
            plan = self.plans.get(path)
            if plan:
                return plan.pop(0)
            return 200 if path in self.files else 404

    def count_reached(self) -> None:
        """Another gated answer waits at the gate."""
        with self._changed:
            self.reached += 1
            self._changed.notify_all()

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Return when a request has made it true; fails after a while."""
        with self._changed:
            assert self._changed.wait_for(true, timeout=30), f"asked so far: {self.order}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                answer = server.next_answer(path, dict(self.headers))
                self.close_connection = True
                if answer == RESET:
                    return
                body = b"" if isinstance(answer, int) and answer != 200 else server.files[path]
                half = body[: len(body) // 2]
                sent = {SHORT: half, LONG: body + b"x", FLIPPED: half + bytes([body[len(half)] ^ 1]) if body else b""}
                if answer == FLIPPED:
                    body = sent[FLIPPED] + body[len(half) + 1 :]
                elif answer in sent:
                    body = sent[answer]
                self.send_response(answer if isinstance(answer, int) else 200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                if answer not in (CUT, STALLED, GATED):
                    self.wfile.write(body)
                    return
                self.wfile.write(half)
                self.wfile.flush()
                if answer == STALLED:
                    server.over.wait()
                elif answer == GATED:
                    server.count_reached()
                    server.gate.wait()
                    self.wfile.write(body[len(half) :])

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: what is asked is counted."""

        return Handler

    @contextmanager
    def running(self) -> Iterator[Loopback]:
        """Serve until the context is left; answers that wait are ended then."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.over.set()
            self.gate.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def serve_shards(server: Loopback, folder: Path, count: int, kilobytes: int = 60) -> list[str]:
    """Write `count` shards of one sample each and of one size, and serve them below /in1k; returns their names."""
    folder.mkdir()
    told = []
    for number in range(count):
        path = folder / f"train-{number:05d}.tar"
        with tarfile.open(path, "w") as tar:
            for name, body in ((f"{number}.cls", b"%d" % number), (f"{number}.png", os.urandom(kilobytes * 1000))):
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
        index = write_index(path)
        told.append({"name": path.name, "samples": 1, "bytes": index.tar_size, "sha256": index.sha256})
        for file in (path, index_path(path)):
            server.files[f"/in1k/{file.name}"] = file.read_bytes()
    serve_manifest(server, told)
    return [shard["name"] for shard in told]


def serve_manifest(server: Loopback, shards: list[dict[str, Any]]) -> str:
    """Serve a manifest that tells of these shards; returns the SHA-256 of its bytes."""
    splits = {"train": {"samples": len(shards), "shards": shards}}
    data = json.dumps({"format": 1, "classes": [str(one) for one in range(len(shards))], "splits": splits}).encode()
    server.files["/in1k/manifest.json"] = data
    return hashlib.sha256(data).hexdigest()

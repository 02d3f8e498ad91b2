"""A proxy that is a slow line: so many bytes a second each way, a round trip that takes long, cuts.

It hears whole requests, so it knows which images each upload carried: tuners name files by digest.
"""

import contextlib
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

CHUNK = 8192
UPLOAD = "/v1/images"


@dataclass
class Uploaded:
    """An upload as the line saw it: the bytes of its body that passed, and its images."""

    size: int
    passed: int
    ids: list[str]
    status: int | None = None


@dataclass
class SlowLine:
    """Use it as a context manager; `url` stands for `target`.

    `cut_upload` is the number of the upload (from 0) that is cut in the middle; `largest` is the
    largest body that is let through, `longest` the largest upload whose reply comes back.
    """

    target: str
    bytes_per_s: float = 1e9
    latency_s: float = 0.0
    cut_upload: int | None = None
    largest: int = 10**9
    longest: int = 10**9
    uploads: list[Uploaded] = field(default_factory=list)
    answered: threading.Event = field(default_factory=threading.Event)
    """Set when an upload was answered."""

    def __enter__(self):
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                line.carry(self)

            do_GET = do_POST = handle_any

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """A tuner that is killed leaves its connection broken."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._http = httpx.Client(base_url=self.target, timeout=60, trust_env=False)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._http.close()

    def carry(self, asked):
        """One request there and its reply back, as slowly as the line is."""
        size = int(asked.headers.get("content-length", "0"))
        stops = size
        uploaded = None
        if (asked.command, asked.path) == ("POST", UPLOAD):
            if len(self.uploads) == self.cut_upload:
                stops = size // 2
            uploaded = Uploaded(size, 0, [])
            self.uploads.append(uploaded)
        if size > self.largest:
            self._refuse(asked)
            return
        body = b"".join(self._slowly(asked.rfile, stops))
        if uploaded is not None:
            uploaded.passed = len(body)
            uploaded.ids = re.findall('filename="([0-9a-f]{64})"', body.decode("latin-1"))
        if len(body) < size:
            asked.close_connection = True
            return
        time.sleep(self.latency_s)
        headers = {name: value for name, value in asked.headers.items() if name.lower() != "host"}
        reply = self._http.request(asked.command, asked.path, headers=headers, content=body)
        if uploaded is not None:
            uploaded.status = reply.status_code
            if size > self.longest:
                asked.close_connection = True
                return
            self.answered.set()
        self._reply(asked, reply)

    def _slowly(self, source, size):
        while size > 0 and (data := source.read(min(CHUNK, size))):
            time.sleep(len(data) / self.bytes_per_s)
            size -= len(data)
            yield data

    def _refuse(self, asked):
        """As nginx does: an answer before the body, and no more of the connection."""
        asked.close_connection = True
        asked.send_response(413)
        asked.send_header("content-length", "5")
        asked.send_header("connection", "close")
        asked.end_headers()
        asked.wfile.write(b"large")
        with contextlib.suppress(OSError):
            while asked.rfile.read(CHUNK):
                pass

    def _reply(self, asked, reply):
        self._head(asked, reply.status_code, dict(reply.headers))
        for start in range(0, len(reply.content), CHUNK):
            time.sleep(len(reply.content[start : start + CHUNK]) / self.bytes_per_s)
            asked.wfile.write(reply.content[start : start + CHUNK])

    def _head(self, asked, status, headers):
        asked.send_response(status)
        for name, value in headers.items():
            if name.lower() not in {"date", "server", "connection", "transfer-encoding"}:
                asked.send_header(name, value)
        asked.end_headers()

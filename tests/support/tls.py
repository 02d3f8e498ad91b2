"""Certificates that vouch for themselves, and an honest fake server behind TLS on this machine."""

import contextlib
import shutil
import ssl
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.support.tuner_server import Asked, FakeServer


def make_authority(folder):
    """A certificate of localhost in `folder`, ca.pem beside its key.pem."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-keyout key.pem -out ca.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


class Answering(BaseHTTPRequestHandler):
    """An honest server's answers to lookups."""

    def do_GET(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = FakeServer().answer(Asked("GET", self.path, "", headers, b""))
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.media_type)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def behind_tls(authority):
    """The address of a server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "ca.pem", authority / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as http:
        http.handle_error = lambda *_: None  # a client that speaks no TLS
        http.socket = context.wrap_socket(http.socket, server_side=True)
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"https://localhost:{http.server_port}"
        http.shutdown()
        thread.join()

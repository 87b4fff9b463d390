"""An HTTP server for tests, on 127.0.0.1, with the moods that public ones have."""

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote


@dataclass
class Site:
    """The contents of a server by path as it stands in the request, and the requests it got."""

    url: str
    content: dict[str, bytes]
    moods: dict[str, str] = field(default_factory=dict)
    """By path: a status, or how the server answers; `503*2` twice before it answers well."""
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By method and path: how often."""
    ranges: list[str] = field(default_factory=list)


@contextlib.contextmanager
def site(content: Mapping[str, bytes]) -> Iterator[Site]:
    """Serves these bytes by their paths, which are quoted; ends with the block."""
    content = {f"/{quote(name)}": data for name, data in content.items()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            here.asked[self.command, self.path] += 1
            mood = here.moods.get(self.path, "")
            status, _, times = mood.partition("*")
            if status.isdecimal() and (
                not times or here.asked[self.command, self.path] <= int(times)
            ):
                self._send(int(status), b"no", {"Retry-After": "0"})
            elif mood == "close":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            elif mood == "no head" and self.command == "HEAD":
                self._send(405, b"", {})
            elif self.path not in content:
                self._send(404, b"no", {})
            else:
                self._give(content[self.path], mood=mood)

        def _give(self, data: bytes, *, mood: str) -> None:
            if mood == "chunked":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                if self.command == "GET":
                    for start in range(0, len(data), 1000):
                        part = data[start : start + 1000]
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    self.wfile.write(b"0\r\n\r\n")
                return
            wanted = self.headers.get("Range")
            if wanted is None or mood == "no ranges":
                kind = "text/html" if self.path.endswith("/") else "image/jpeg"
                self._send(200, data, {"ETag": f'"{len(data)}"', "Content-Type": kind})
                return
            here.ranges.append(wanted)
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last or len(data) - 1) + 1, len(data))
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            place = f"bytes {start}-{stop - 1}/{len(data)}"
            headers = {"Content-Range": place, "ETag": f'"{len(data)}"'}
            self._send(206, data[start:stop], headers)

        def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Says nothing of clients that hang up."""

    server = Server(("127.0.0.1", 0), Handler)
    here = Site(url=f"http://127.0.0.1:{server.server_port}", content=content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

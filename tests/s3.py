"""A real S3 server for tests: `weed mini` on 127.0.0.1, with its own ports and credentials."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import free_ports

from pipeline.storage import Storage

KEY, SECRET = "test-access-key-4711", "test-secret-that-must-not-leak-0815"


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """The address of a server, and the variables that a client needs."""

    endpoint_url: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }


@contextlib.contextmanager
def s3_server(folder: Path, *, bucket: str = "test") -> Iterator[S3Server]:
    """Starts the server with one bucket, ends it by its process id."""
    names = ["master", "volume", "filer", "s3"]
    ports = dict(zip([*names, *(f"{n}.grpc" for n in names), "admin"], free_ports(9), strict=True))
    command = [
        str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder}",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={bucket}",
        "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-admin.port={ports['admin']}",
    ]  # fmt: skip
    for name in names:
        command += [f"-{name}.port={ports[name]}", f"-{name}.port.grpc={ports[name + '.grpc']}"]
    server = S3Server(endpoint_url=f"http://127.0.0.1:{ports['s3']}")
    log = folder / "weed.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
        )
    try:
        _wait_for(server, bucket, process, log)
        yield server
    finally:
        # Told to end, it takes up to 20 s; what it holds goes with its folder.
        process.kill()
        process.wait()


@contextlib.contextmanager
def rclone_server(folder: Path, *, bucket: str = "test") -> Iterator[S3Server]:
    """`rclone serve s3` over a folder: it ignores the conditions of a PUT."""
    (folder / bucket).mkdir()
    (port,) = free_ports(1)
    server = S3Server(endpoint_url=f"http://127.0.0.1:{port}")
    log = folder / "rclone.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("rclone")), "serve", "s3",
                f"--addr=127.0.0.1:{port}", "--vfs-cache-mode=off", str(folder),
            ],
            stdout=output, stderr=subprocess.STDOUT,
            # A list in CSV; not on the command line, which everybody can read.
            env={"RCLONE_AUTH_KEY": f'"{KEY},{SECRET}"', "HOME": str(folder)},
        )  # fmt: skip
    try:
        _wait_for(server, bucket, process, log)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(server: S3Server, bucket: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a small object can be written and read back."""
    import s3fs

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(server.endpoint_url, timeout=2).close()
        except urllib.error.HTTPError:
            pass  # it answers: the rest is a matter of credentials
        except OSError:
            time.sleep(0.2)
            continue
        fs = s3fs.S3FileSystem(
            endpoint_url=server.endpoint_url, key=KEY, secret=SECRET, skip_instance_cache=True
        )
        with contextlib.suppress(Exception):
            fs.pipe_file(f"{bucket}/.ready", b"yes")
            fs.rm_file(f"{bucket}/.ready")
            return
        time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}")


def storage_at(endpoint_url: str, **settings: Any) -> Storage:
    """Makes a storage that reaches the server by settings alone."""
    return Storage(
        endpoint_url=endpoint_url, region="us-east-1", key=KEY, secret=SECRET, **settings
    )

"""An S3-compatible server whose objects are files: so it can be killed, and started again with what it had.

    python -m tests.s3_server FOLDER PORT

Path-style requests of one region, without checking signatures: objects put, got, listed and deleted.
"""

import contextlib
import hashlib
import signal
import socket
import subprocess
import sys
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

SPACE = '<?xml version="1.0" encoding="UTF-8"?>'


class Handler(BaseHTTPRequestHandler):
    """Objects of a bucket are files below FOLDER/bucket, their names quoted."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def _parts(self) -> tuple[str, str, dict[str, list[str]]]:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        return bucket, key, parse_qs(url.query, keep_blank_values=True)

    def _file(self, bucket: str, key: str) -> Path:
        return self.folder / bucket / quote(key, safe="")

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str = "NoSuchKey") -> None:
        self._answer(404, f"{SPACE}<Error><Code>{code}</Code><Message>missing</Message></Error>".encode())

    def _body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return content
        found = b""
        while content:
            head, _, content = content.partition(b"\r\n")
            size = int(head.partition(b";")[0], 16)
            if not size:
                break
            found, content = found + content[:size], content[size + 2 :]
        return found

    def do_PUT(self) -> None:  # noqa: N802
        bucket, key, _ = self._parts()
        (self.folder / bucket).mkdir(parents=True, exist_ok=True)
        content = self._body()
        if key:
            tmp = self._file(bucket, key).with_name(f".{time.monotonic_ns()}")
            tmp.write_bytes(content)
            tmp.replace(self._file(bucket, key))
        self._answer(200, ETag=f'"{hashlib.md5(content).hexdigest()}"')

    def do_GET(self) -> None:  # noqa: N802
        bucket, key, query = self._parts()
        if not key:
            return (
                self._list(bucket, query)
                if (self.folder / bucket).is_dir()
                else self._missing("NoSuchBucket")
            )
        file = self._file(bucket, key)
        if not file.is_file():
            return self._missing()
        content, code, extra = file.read_bytes(), 200, {}
        if wanted := self.headers.get("Range"):
            low, _, high = wanted.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high or len(content) - 1), len(content) - 1)
            extra = {"Content_Range": f"bytes {first}-{last}/{len(content)}"}
            content, code = content[first : last + 1], 206
        dates = {"Last_Modified": formatdate(file.stat().st_mtime, usegmt=True)}
        return self._answer(code, content, ETag=f'"{hashlib.md5(content).hexdigest()}"', **dates, **extra)

    do_HEAD = do_GET  # noqa: N815

    def do_DELETE(self) -> None:  # noqa: N802
        bucket, key, _ = self._parts()
        self._file(bucket, key).unlink(missing_ok=True)
        self._answer(204)

    def do_POST(self) -> None:  # noqa: N802
        bucket, _, query = self._parts()
        body = self._body()
        assert "delete" in query, self.path
        keys = [
            found.text or "" for found in ElementTree.fromstring(body).iter() if found.tag.endswith("Key")
        ]
        for key in keys:
            self._file(bucket, key).unlink(missing_ok=True)
        said = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._answer(200, f"{SPACE}<DeleteResult>{said}</DeleteResult>".encode())

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix, ends = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        contents, folders = "", dict[str, None]()
        for file in sorted((self.folder / bucket).iterdir()):
            key = unquote(file.name)
            if file.name.startswith(".") or not key.startswith(prefix):
                continue
            rest = key.removeprefix(prefix)
            if ends and ends in rest:
                folders[prefix + rest.partition(ends)[0] + ends] = None
                continue
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(file.stat().st_mtime))
            contents += (
                f"<Contents><Key>{escape(key)}</Key><Size>{file.stat().st_size}</Size><ETag>&quot;x&quot;</ETag>"
                f"<LastModified>{when}</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders
        )
        found = f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"
        self._answer(200, f"{SPACE}<ListBucketResult>{found}{contents}{common}</ListBucketResult>".encode())

    def log_message(self, *_: object) -> None:
        """Nothing: pytest shows what matters."""


class S3:
    """The server as a process of its own; environment: for a client."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
        }

    def start(self) -> None:
        (self._folder / "bucket").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.s3_server", str(self._folder), str(self.port)]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise AssertionError("the server does not listen")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Take connections, and answer none, until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def names(self, prefix: str) -> set[str]:
        """The names of the objects below bucket/prefix."""
        keys = (unquote(file.name) for file in (self._folder / "bucket").iterdir())
        return {key.removeprefix(f"{prefix}/") for key in keys if key.startswith(f"{prefix}/")}

    def content(self, key: str) -> bytes:
        return (self._folder / "bucket" / quote(key, safe="")).read_bytes()


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()

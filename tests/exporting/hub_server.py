"""A server that speaks the calls by which huggingface_hub creates a repository and uploads a folder into it.

It keeps what arrives. Files go as on the hub: JSON and text in the commit itself, others by the Git LFS batch
API, whose objects are checked against the digest by which they are named.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

TEXT = (".json", ".md", ".jinja", ".txt")


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        hub, path = self.server.hub, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.calls.append((self.command, path))
        if path.startswith("/objects/"):  # a signed address: without the token
            oid = path.removeprefix("/objects/")
            assert hashlib.sha256(body).hexdigest() == oid
            hub.objects[oid] = body
            return self._answer(200, {})
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            hub.private = asked.get("visibility") == "private" or asked.get("private") is True
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            return self._answer(200, {"url": f"{hub.url}/{name}", "id": name})
        if path == "/api/validate-yaml":
            hub.card = json.loads(body)["content"]
            return self._answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = {file["path"]: "regular" if file["path"].endswith(TEXT) else "lfs" for file in files}
            return self._answer(
                200,
                {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]},
            )
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/objects/{each['oid']}"}}}
                for each in objects
            ]
            return self._answer(200, {"transfer": "basic", "objects": actions})
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            return self._answer(
                200, {"commitUrl": f"{hub.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}
            )
        return self._answer(404, {"error": f"not spoken here: {self.command} {path}"})

    do_GET = do_POST = do_PUT = _handle  # noqa: N815


@contextmanager
def hub_server(token: str) -> Iterator[SimpleNamespace]:
    """A running one: its url, and what it got: files by name, private, the calls."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = SimpleNamespace(
        url=f"http://127.0.0.1:{server.server_port}",
        token=token,
        files={},
        objects={},
        private=None,
        card=None,
        calls=[],
    )
    server.hub = hub
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

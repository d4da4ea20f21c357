"""A server that speaks the calls by which huggingface_hub uploads a folder and downloads a model.

It keeps what arrives, and gives what it has. Files go as on the hub: JSON and text in the commit itself,
others by the Git LFS batch API, whose objects are checked against the digest by which they are named.
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
COMMIT = "1" * 40


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, status: int, value: object, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, name: str) -> None:
        content = self.server.hub.files.get(name)
        if content is None:
            return self._answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        digest = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, ETag=f'"{digest}"', X_Repo_Commit=COMMIT)

    def _tree(self, folder: str) -> None:
        if folder:
            return self._answer(404, {}, X_Error_Code="EntryNotFound")
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in self.server.hub.files.items()
        ]
        return self._answer(200, entries)

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
                elif line["key"] == "deletedFile":
                    del hub.files[value["path"]]
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            return self._answer(200, {"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        if "/resolve/" in path:
            return self._file(path.partition("/resolve/")[2].partition("/")[2])
        if path.startswith("/api/models/") and "/tree/" in path:
            return self._tree(path.partition("/tree/")[2].partition("/")[2])
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in hub.files]
            return self._answer(200, {"id": "owner/tiny", "sha": COMMIT, "siblings": siblings})
        return self._answer(404, {"error": f"not spoken here: {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815


@contextmanager
def hub_server(token: str, port: int) -> Iterator[SimpleNamespace]:
    """A running one: its url, what it has, files by name; private, the calls."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
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

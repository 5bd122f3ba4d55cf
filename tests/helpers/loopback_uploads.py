"""Stand-ins for the two hubs on 127.0.0.1 that take uploads, as huggingface_hub 2.4 and modelscope-hub 0.5 send them.

    with UploadHub(token="right") as hub:
        hub.url                          # for HF_ENDPOINT and MODELSCOPE_ENDPOINT alike
        hub.repositories["me/model"]     # {"visibility": …, "files": {path: bytes}} once it has been uploaded

Whatever comes without the right token is answered with 401, and with `refuse` set with that status.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LARGE = re.compile(r"\.(safetensors|bin|onnx)$")
NAME = r"([^/]+/[^/]+)"


class UploadHub:
    def __init__(self, token: str):
        self.token, self.refuse = token, None
        self.repositories: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}  # by SHA-256
        self.requests: list[str] = []

    def __enter__(self) -> "UploadHub":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    # ---- the routes: (status, answer)

    def hub_create(self, body: bytes) -> tuple[int, dict]:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
        self.repositories[name] = {"visibility": wanted.get("visibility", "public"), "files": {}}
        return 200, {"url": f"{self.url}/{name}", "name": name}

    def hub_preupload(self, body: bytes, name: str) -> tuple[int, dict]:
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = ["lfs" if LARGE.search(path) else "regular" for path in paths]
        return 200, {
            "files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in zip(paths, modes, strict=True)]
        }

    def lfs_batch(self, body: bytes, name: str) -> tuple[int, dict]:
        answers = []
        for wanted in json.loads(body)["objects"]:
            upload = {"href": f"{self.url}/storage/{wanted['oid']}"}
            answers.append({"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": upload}})
        return 200, {"transfer": "basic", "objects": answers, "Code": 200, "Data": {"objects": answers}}

    def store(self, body: bytes, oid: str) -> tuple[int, dict]:
        assert hashlib.sha256(body).hexdigest() == oid
        self.blobs[oid] = body
        return 200, {}

    def hub_commit(self, body: bytes, name: str) -> tuple[int, dict]:
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                self.repositories[name]["files"][value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                self.repositories[name]["files"][value["path"]] = self.blobs[value["oid"]]
        return 200, {"success": True, "commitUrl": f"{self.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40}

    def modelscope_info(self, body: bytes, name: str) -> tuple[int, dict]:
        if name not in self.repositories:
            return 404, {"Code": 10010205001, "Message": "not found", "Success": False}
        return 200, {"Code": 200, "Success": True, "success": True, "Data": {"Path": name}, "data": {"id": name}}

    def modelscope_create(self, body: bytes) -> tuple[int, dict]:
        wanted = json.loads(body)
        name = f"{wanted['Path']}/{wanted['Name']}"
        if name in self.repositories:
            return 409, {"Code": 10020101002, "Message": "exists", "Success": False}
        self.repositories[name] = {"visibility": {1: "private", 5: "public"}[wanted["Visibility"]], "files": {}}
        return 200, {"Code": 200, "Success": True, "Data": {"Path": wanted["Path"], "Name": wanted["Name"]}}

    def modelscope_commit(self, body: bytes, name: str) -> tuple[int, dict]:
        for action in json.loads(body)["actions"]:
            large = action["type"] == "lfs"
            content = self.blobs[action["sha256"]] if large else base64.b64decode(action["content"])
            self.repositories[name]["files"][action["path"]] = content
        return 200, {"Code": 200, "Success": True, "Data": {"oid": "0" * 40}}


ROUTES = [
    ("POST", "/api/repos/create", UploadHub.hub_create),
    ("POST", f"/api/models/{NAME}/preupload/main", UploadHub.hub_preupload),
    ("POST", f"/{NAME}.git/info/lfs/objects/batch", UploadHub.lfs_batch),
    ("PUT", "/storage/([0-9a-f]{64})", UploadHub.store),
    ("POST", f"/api/models/{NAME}/commit/main", UploadHub.hub_commit),
    ("POST", "/api/validate-yaml", lambda hub, body: (200, {"errors": [], "warnings": []})),
    ("GET", f"/(?:openapi|api)/v1/models/{NAME}", UploadHub.modelscope_info),
    ("POST", "/api/v1/models", UploadHub.modelscope_create),
    ("POST", f"/api/v1/repos/models/{NAME}/info/lfs/objects/batch", UploadHub.lfs_batch),
    ("POST", f"/api/v1/repos/models/{NAME}/commit/master", UploadHub.modelscope_commit),
]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        hub, path = self.server.hub, urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.requests.append(f"{self.command} {path}")
        if hub.refuse or (hub.token not in self.headers.get("Authorization", "") and not path.startswith("/storage")):
            self.answer(hub.refuse or 401, {"error": "as told", "Message": "as told", "Success": False})
            return
        for method, pattern, route in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == self.command:
                self.answer(*route(hub, body, *found.groups()))
                return
        self.answer(404, {"error": f"no route {self.command} {path}"})

    do_GET = do_PUT = do_POST

    def answer(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass

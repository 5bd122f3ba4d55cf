"""A stand-in for ModelScope on 127.0.0.1: as much of its protocol as `modelscope_hub` 0.5.1 and we use to read.

    lay_out_model(tmp_path)
    with LoopbackModelScope(tmp_path) as hub:
        subprocess.run([sys.executable, "train.py"], env=hub_environment(...) | {"MODELSCOPE_ENDPOINT": hub.url})

It answers as other readers of modelscope.cn have written down: the listing names the commit by its first 8 digits
(`ShortId`), each file by the commit that last changed it; a revision that is not there has a listing without files,
status 200; large files are redirected to another origin; a data set is listed in pages.
"""

import hashlib
import json
import re
from urllib.parse import parse_qs, quote, unquote, urlsplit

from loopback_hub import LARGE_FILES, Failure, Handler, LoopbackHub, Repository

FILES_URL = re.compile(r"/api/v1/(models|datasets)/([^/]+/[^/]+)/repo(/files|/tree)?")
STORED_URL = re.compile(r"/storage/(models|datasets)/([^/]+/[^/]+)/(.+)")


class LoopbackModelScope(LoopbackHub):
    """Serves what `LoopbackHub` does. `more_entries` are added to each listing; `queries` are those of all requests."""

    def __init__(self, root):
        super().__init__(root)
        self.more_entries: list[dict] = []
        self.queries: list[dict[str, str]] = []
        self.tokens: list[str | None] = []
        self.names_commits = True

    def handler(self):
        return ModelScopeHandler

    def commit(self, kind: str, name: str) -> str:
        return self.repository(kind, name).commit()

    def fetched(self) -> list[str]:
        """Paths of the files that were asked for."""
        return [query["FilePath"] for query in self.queries if "FilePath" in query]


class ModelScopeHandler(Handler):
    def route(self, hub: LoopbackModelScope, path: str, body: str) -> None:
        query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
        hub.queries.append(query)
        hub.tokens.append(self.headers.get("Authorization"))
        if found := STORED_URL.fullmatch(path):
            kind, name, file = map(unquote, found.groups())
            self.send_content((hub.repository(kind, name).folder / file).read_bytes(), {})
            return
        found = FILES_URL.fullmatch(path)
        if not found:
            raise Failure(404)
        kind, name, listing = found.groups()
        try:
            repository = hub.repository(kind, name)
        except Failure:
            answer = {"Code": 10010205001, "Message": "record not found", "Success": False, "Data": None}
            self.answer(404, json.dumps(answer).encode(), {"Content-Type": "application/json"})
            return
        known = query.get("Revision", "master") in ("master", repository.commit())
        if listing:
            self.send_listing(repository, known, query)
        elif known and query.get("FilePath") in repository.paths():
            self.send_repository_file(repository, query["FilePath"])
        else:
            raise Failure(404)

    def send_listing(self, repository: Repository, known: bool, query: dict[str, str]) -> None:
        if not known:
            self.send_json({"Code": 200, "Success": True, "Data": {"Files": None, "LatestCommitter": None}})
            return
        hub, commit = self.server.hub, repository.commit()
        entries = [{"Path": "data", "Type": "tree", "Size": 0, "Revision": commit, "CommittedDate": 1, "Sha256": ""}]
        for number, path in enumerate(repository.paths()):
            content = (repository.folder / path).read_bytes()
            # The last commit has changed one of the files.
            changed_by = hashlib.sha1(path.encode()).hexdigest() if number else commit
            entries.append({
                "Path": path, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest(),
                "Revision": changed_by, "CommittedDate": 1_700_000_000 - number,
            })  # fmt: skip
        entries += hub.more_entries
        if repository.kind == "datasets":
            size = int(query["PageSize"])
            start = (int(query["PageNumber"]) - 1) * size
            entries = entries[start : start + size]
        committer = {"Id": "", "ShortId": commit[:8]} if hub.names_commits else None
        self.send_json({"Code": 200, "Success": True, "Data": {"Files": entries, "LatestCommitter": committer}})

    def send_repository_file(self, repository: Repository, path: str) -> None:
        if f".{path.rsplit('.', 1)[-1]}" not in LARGE_FILES:
            self.send_content((repository.folder / path).read_bytes(), {})
            return
        storage = f"http://localhost:{self.server.server_port}/storage/{repository.kind}/{repository.name}"
        self.answer(302, b"", {"Location": f"{storage}/{quote(path)}"})

"""A stand-in for the model hub on 127.0.0.1, for tests of what talks to it: the read half of the hub's protocol.

    lay_out_model(tmp_path)
    lay_out_dataset(tmp_path, {"train": rows, "validation": more_rows})
    with LoopbackHub(tmp_path) as hub:
        subprocess.run([sys.executable, "train.py"], env=hub_environment(hub.url, home=tmp_path / "home"))
        hub.requests  # what was asked for, in order

The protocol is that of huggingface_hub 2.4, as its `hf_api.py` and `file_download.py` speak it. Large files are
redirected to another origin, as the hub does with its storage; with `offers_xet` they are offered over Xet as well,
though none is there: a client that wants it is noted by its request for a token.
`HF_ENDPOINT` is read when huggingface_hub is imported, so a client has to be a process of its own.
"""

import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from small import small_reviews

from data.dataset import Rows

API_URL = re.compile(r"/api/(models|datasets)/([^/]+(?:/[^/]+)?)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?")
FILE_URL = re.compile(r"/(?:(datasets)/)?([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")
STORED_URL = re.compile(r"/storage/(models|datasets)/([^/]+/[^/]+)/(.+)")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
LARGE_FILES = {".safetensors", ".parquet"}  # what the hub keeps outside git
PAGE_SIZE = 1000  # entries of a listing before its next page, as on the hub


class Request(NamedTuple):
    """One request, its path without the query, and the status it was answered with (0: not answered)."""

    method: str
    path: str
    status: int


class Failure(Exception):
    """An error answer; by `code` the client tells a missing repository from a missing file."""

    def __init__(self, status: int, code: str = ""):
        super().__init__(f"{status} {code}")
        self.status, self.code = status, code


@dataclass(frozen=True)
class Repository:
    """A folder served as the `main` branch of a repository with a single commit."""

    kind: str  # "models" or "datasets"
    name: str  # "ORG/NAME"
    folder: Path

    def paths(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def commit(self) -> str:
        """40 hex digits that change with any file."""
        files = "".join(f"{path} {self.entry(path)['oid']}\n" for path in self.paths())
        return hashlib.sha1(files.encode()).hexdigest()

    def require(self, revision: str) -> None:
        if revision not in ("main", self.commit()):
            raise Failure(404, "RevisionNotFound")

    def info(self) -> dict:
        siblings = [{"rfilename": path} for path in self.paths()]
        return {"id": self.name, "sha": self.commit(), "siblings": siblings, "private": False, "gated": False}

    def entry(self, path: str) -> dict:
        """A file or folder as listings show it; `oid` is git's id of the file."""
        if not (self.folder / path).is_file():
            return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
        content = (self.folder / path).read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": path, "size": len(content), "oid": oid}
        if Path(path).suffix in LARGE_FILES:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
        return entry

    def tree(self, under: str, recursive: bool) -> list[dict]:
        prefix = f"{under}/" if under else ""
        inside = [path.removeprefix(prefix) for path in self.paths() if path.startswith(prefix)]
        if not inside:
            raise Failure(404, "EntryNotFound")
        folders = {parent.as_posix() for path in inside for parent in Path(path).parents} - {"."}
        return [self.entry(prefix + name) for name in sorted({*inside, *folders}) if recursive or "/" not in name]


class LoopbackHub:
    """Serves `root/models/ORG/NAME` and `root/datasets/ORG/NAME` while its `with` block lasts.

    `url` is the value for `HF_ENDPOINT`; after the block it refuses connections. The switches may be
    thrown at any time: after `fail_with(status, part)` each path that contains `part` is answered with that
    status, and the headers given; and with `delay` seconds each connection is accepted at once and answered only then.
    """

    def __init__(self, root: Path, page_size: int = PAGE_SIZE):
        self.root, self.page_size = root, page_size
        self.requests: list[Request] = []
        self.failing: tuple[int, str] | None = None
        self.failing_headers: dict[str, str] = {}
        self.delay = 0.0
        self.offers_xet = False
        self.closing = threading.Event()

    def fail_with(self, status: int, part: str = "", **headers: str) -> None:
        """`headers` with _ for -, such as X_Error_Code="GatedRepo"."""
        self.failing = (status, part)
        self.failing_headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def repository(self, kind: str, name: str) -> Repository:
        folder = self.root / kind / name
        if name.count("/") != 1 or not folder.is_dir():
            raise Failure(404, "RepoNotFound")
        return Repository(kind, name, folder)

    def handler(self) -> type["Handler"]:
        return Handler

    def __enter__(self):
        self.server = QuietServer(("127.0.0.1", 0), self.handler())
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


class QuietServer(ThreadingHTTPServer):
    hub: LoopbackHub

    def handle_error(self, request, client_address) -> None:
        """A client that hung up is no error here: tests of time limits end that way."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: QuietServer

    def do_GET(self) -> None:
        hub, path = self.server.hub, urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if hub.closing.wait(hub.delay):  # also on a connection that was kept open
            hub.requests.append(Request(self.command, path, 0))
            self.close_connection = True
            return
        try:
            if hub.failing and hub.failing[1] in path:
                self.answer(hub.failing[0], b'{"error": "as told"}', hub.failing_headers)
                return
            self.route(hub, path, body)
        except Failure as failure:
            headers = {"X-Error-Code": failure.code} if failure.code else {}
            self.answer(failure.status, json.dumps({"error": str(failure)}).encode(), headers)

    do_HEAD = do_POST = do_GET

    def route(self, hub: LoopbackHub, path: str, body: str) -> None:
        if found := STORED_URL.fullmatch(path):
            kind, name, file = map(unquote, found.groups())
            self.send_content((hub.repository(kind, name).folder / file).read_bytes(), {})
        elif found := FILE_URL.fullmatch(path):
            kind, name, revision, file = (unquote(part or "models") for part in found.groups())
            self.send_file(hub.repository(kind, name), revision, file)
        elif found := API_URL.fullmatch(path):
            kind, name, question, revision, under = (unquote(part or "") for part in found.groups())
            repository = hub.repository(kind, name)
            repository.require(revision or "main")
            if question == "tree":
                self.send_tree(repository, under)
            elif question == "paths-info":
                wanted = [path for path in parse_qs(body).get("paths", []) if (repository.folder / path).exists()]
                self.send_json([repository.entry(path) for path in wanted])
            else:
                self.send_json(repository.info())
        else:
            raise Failure(404)

    def send_tree(self, repository: Repository, under: str) -> None:
        """One page of a listing; the `Link` header names the next."""
        query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
        recursive = query.get("recursive", "").lower() == "true"
        entries = repository.tree(under, recursive)
        if self.server.hub.offers_xet:
            entries = [entry | ({"xetHash": entry["lfs"]["oid"]} if "lfs" in entry else {}) for entry in entries]
        start, end = int(query.get("cursor", 0)), int(query.get("cursor", 0)) + self.server.hub.page_size
        url = f"{self.server.hub.url}{urlsplit(self.path).path}?recursive={recursive}&cursor={end}"
        self.send_json(entries[start:end], {"Link": f'<{url}>; rel="next"'} if entries[end:] else {})

    def send_json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send_file(self, repository: Repository, revision: str, path: str) -> None:
        """A small file itself; of a large one its size and hash, and where it lies."""
        repository.require(revision)
        commit = {"X-Repo-Commit": repository.commit()}
        if path not in repository.paths():
            # With the commit, or the client could not remember that the file is missing.
            self.answer(404, b'{"error": "Entry not found"}', {**commit, "X-Error-Code": "EntryNotFound"})
            return
        entry = repository.entry(path)
        if "lfs" not in entry:
            self.send_content((repository.folder / path).read_bytes(), {**commit, "ETag": f'"{entry["oid"]}"'})
            return
        linked = {"X-Linked-Size": str(entry["size"]), "X-Linked-ETag": f'"{entry["lfs"]["oid"]}"'}
        if self.server.hub.offers_xet:
            route = f"/api/{repository.kind}/{repository.name}/xet-read-token/{revision}"
            linked |= {"X-Xet-Hash": entry["lfs"]["oid"], "X-Xet-Refresh-Route": self.server.hub.url + route}
        # The same server by another name, so that to the client it is another origin.
        storage = f"http://localhost:{self.server.server_port}/storage/{repository.kind}/{repository.name}"
        self.answer(302, b"", {**commit, **linked, "Location": f"{storage}/{quote(path)}"})

    def send_content(self, content: bytes, headers: Mapping[str, str]) -> None:
        """The content, or the one range of it that was asked for."""
        found = RANGE.fullmatch(self.headers.get("Range", ""))
        if not found or found.groups() == ("", ""):
            self.answer(200, content, {**headers, "Accept-Ranges": "bytes"})
            return
        first, last = found.groups()
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) + 1 if first and last else len(content), len(content))
        if start >= end:
            self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        self.answer(206, content[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        # Noted before it is sent: a client that has its answer must find its request in the list.
        self.server.hub.requests.append(Request(self.command, urlsplit(self.path).path, status))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def hub_environment(url: str, home: Path, **more: str) -> dict[str, str]:
    """The environment for a client of the hub at `url` with its caches under `home`, whatever this machine has set."""
    libraries = ("HF_", "HUGGING", "TRANSFORMERS_", "MODELSCOPE_", "SENTIMENT_HUB")
    ours = {key: value for key, value in os.environ.items() if not key.upper().startswith(libraries)}
    ours |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "*", "no_proxy": "*"}
    # The other hub, which is asked where this one cannot be reached.
    ours |= {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0"}
    ours |= {"MODELSCOPE_CACHE": str(home / "modelscope"), "MODELSCOPE_HOME": str(home / "modelscope_home")}
    # Downloads are counted elsewhere in the world; a test must not call there.
    return ours | {"HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_HUB_DISABLE_TELEMETRY": "1"} | more


def lay_out_model(root: Path, name: str = "Qwen/Qwen2.5-1.5B", seed: int = 0) -> Path:
    """A Qwen2 language model with random bf16 weights and one token a byte, its files as in the real repository.

    As there, config.json names no `pad_token_id`, the output layer is tied and the tokenizer pads
    with `<|endoftext|>`, here id 256.
    """
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    folder = root / "models" / name
    alphabet = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    Qwen2Tokenizer(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]).save_pretrained(folder)
    sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    ends = {"bos_token_id": 256, "eos_token_id": 256}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, **ends, tie_word_embeddings=True)).to(torch.bfloat16)
    model.save_pretrained(folder)
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16"}
    config |= {**sizes, **ends, "tie_word_embeddings": True, "rope_theta": 1000000.0, "use_sliding_window": False}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def lay_out_dataset(root: Path, splits: Mapping[str, Rows], name: str = "lansinuote/ChnSentiCorp") -> Path:
    """One parquet file a split under `data/`, with the columns `text` and `label`, and a card that describes them."""
    import pyarrow
    from pyarrow import parquet

    folder = root / "datasets" / name
    (folder / "data").mkdir(parents=True)
    described = []
    for split, rows in splits.items():
        table = pyarrow.table({"text": rows.texts, "label": pyarrow.array(rows.labels, pyarrow.int64())})
        parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001-{rows.fingerprint()}.parquet")
        described.append({"name": split, "num_examples": len(rows), "num_bytes": table.nbytes})
    columns = [{"name": "text", "dtype": "string"}, {"name": "label", "dtype": "int64"}]
    card = json.dumps({"dataset_info": {"features": columns, "splits": described}})  # JSON is YAML too
    (folder / "README.md").write_text(f"---\n{card}\n---\n", encoding="utf-8")
    return folder


def lay_out_model_and_reviews(root: Path) -> tuple[Path, Path]:
    """(folder of the default model, folder of a data set of 60 reviews in three splits) under `root`."""
    reviews = small_reviews(60)
    rows = Rows([row["text"] for row in reviews], [row["label"] for row in reviews])
    parts = {"train": range(40), "validation": range(40, 50), "test": range(50, 60)}
    return lay_out_model(root), lay_out_dataset(root, {name: rows.select(part) for name, part in parts.items()})

"""The stand-in hub serves what the real libraries ask for: they load a model and a dataset from it, unchanged.

pytest tests/scripts/test_loopback_hub.py
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest
from loopback_hub import LoopbackHub, hub_environment, lay_out_dataset, lay_out_model

from data.dataset import Rows

SPLITS = {
    "train": Rows(["房间很干净", "服务太差", "“值”得\n再来 👍"], [1, 0, 1]),
    "validation": Rows(["一般", "很好"], [0, 1]),
    "test": Rows(["差"], [0]),
}
MODEL, DATASET = "Qwen/Qwen2.5-1.5B", "lansinuote/ChnSentiCorp"

LOAD_EVERYTHING = """
import json
import torch
from datasets import load_dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

config = AutoConfig.from_pretrained("Qwen/Qwen2.5-1.5B")
tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen2.5-1.5B")
model = AutoModelForSequenceClassification.from_pretrained("Qwen/Qwen2.5-1.5B", num_labels=2)
loaded = load_dataset("lansinuote/ChnSentiCorp")
names_no_pad_token = config.pad_token_id is None
model.config.pad_token_id = tokenizer.pad_token_id
batch = tokenizer(loaded["train"]["text"][:], padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits
print(json.dumps({
    "names_no_pad_token": names_no_pad_token,
    "pad_token": tokenizer.pad_token,
    "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"]],
    "dtype": str(model.dtype),
    "embedded": model.get_input_embeddings().weight.float().tolist(),
    "logits": list(logits.shape),
    "rows": {split: [table["text"][:], table["label"][:]] for split, table in loaded.items()},
}))
"""

# What a call gave: its value, or the name of what it raised and the seconds that took.
ASK_THE_HUB = """
import json, sys, time
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
answers = {}
for name, call in json.loads(sys.argv[1]).items():
    start = time.monotonic()
    try:
        answers[name] = eval(call)
    except Exception as error:
        answers[name] = [type(error).__name__, time.monotonic() - start]
print(json.dumps(answers))
"""


def python(environment: dict[str, str], *arguments: str) -> dict:
    """What a Python process with these arguments prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask(environment: dict[str, str], **calls: str) -> dict:
    return python(environment, ASK_THE_HUB, json.dumps(calls))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    lay_out_model(root)
    lay_out_dataset(root, SPLITS)
    return root


@pytest.fixture(scope="module")
def loaded(root):
    """(what the libraries loaded from the hub, the hub's address, what was asked for, the home of the caches)."""
    home = root / "home"
    with LoopbackHub(root, page_size=2) as hub:
        return python(hub_environment(hub.url, home), LOAD_EVERYTHING), hub.url, hub.requests, home


@pytest.fixture
def hub(root):
    with LoopbackHub(root) as hub:
        yield hub


def get(url: str, **headers: str) -> tuple[int, dict, bytes]:
    """(status, headers, body) of one GET; redirects followed."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_dataset_arrives_row_by_row(loaded):
    assert loaded[0]["rows"] == {split: [rows.texts, rows.labels] for split, rows in SPLITS.items()}


def test_model_arrives_as_the_weights_that_lie_in_the_folder(loaded, root):
    from safetensors.torch import load_file

    stored = load_file(root / "models" / MODEL / "model.safetensors")
    assert "lm_head.weight" not in stored  # tied, as in Qwen2.5-1.5B
    assert loaded[0]["embedded"] == stored["model.embed_tokens.weight"].float().tolist()
    assert loaded[0]["dtype"] == "torch.bfloat16"
    assert loaded[0]["logits"] == [3, 2]


def test_config_names_no_pad_token_and_the_tokenizer_does(loaded):
    assert loaded[0]["names_no_pad_token"]
    assert loaded[0]["pad_token"] == "<|endoftext|>"
    assert loaded[0]["decoded"] == SPLITS["train"].texts


def test_large_files_come_from_another_origin_and_small_ones_do_not(loaded):
    requests = loaded[2]
    resolved = {request.path.rsplit("/", 1)[1]: request.status for request in requests if "/resolve/" in request.path}
    large = {name for name, status in resolved.items() if status == 302}
    stored = {request.path.rsplit("/", 1)[1] for request in requests if request.path.startswith("/storage/")}
    assert large == stored
    assert {name.rsplit(".", 1)[1] for name in large} == {"safetensors", "parquet"}
    assert resolved["config.json"] == resolved["tokenizer.json"] == 200
    assert resolved["adapter_config.json"] == 404


def test_rows_load_again_from_the_cache_offline(loaded):
    load = "import json; from datasets import load_dataset; print(json.dumps(load_dataset(%r)['train']['text'][:]))"
    _, url, _, home = loaded  # that hub is closed by now
    assert python(hub_environment(url, home, HF_HUB_OFFLINE="1"), load % DATASET) == SPLITS["train"].texts


def test_listings_of_several_pages_are_complete(root, tmp_path):
    listing = f"sorted(f.path for f in api.list_repo_tree({DATASET!r}, repo_type='dataset', recursive=True))"
    paths_info = f"[f.size for f in api.get_paths_info({MODEL!r}, ['config.json', 'none.json'])]"
    answers = []
    for page_size in (1, 1000):
        with LoopbackHub(root, page_size=page_size) as hub:
            answers.append(ask(hub_environment(hub.url, tmp_path), listing=listing, paths_info=paths_info))
            pages = sum("/tree/" in request.path for request in hub.requests)
            assert pages == (5 if page_size == 1 else 1)
    folder = root / "datasets" / DATASET
    assert answers[0]["listing"] == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert answers[0]["paths_info"] == [(root / "models" / MODEL / "config.json").stat().st_size]
    assert answers[0] == answers[1]


def test_what_is_not_there_is_told_apart(hub, tmp_path):
    answers = ask(
        hub_environment(hub.url, tmp_path),
        repository="api.model_info('nobody/nothing').sha",
        dataset="api.dataset_info('nobody/nothing').sha",
        revision=f"api.model_info({MODEL!r}, revision='v9').sha",
        file=f"hf_hub_download({MODEL!r}, 'none.json')",
        folder=f"list(api.list_repo_tree({MODEL!r}, 'none'))",
        commit=f"api.model_info({MODEL!r}).sha == api.model_info({MODEL!r}, revision='main').sha",
    )
    assert answers.pop("commit") is True
    assert {name: raised for name, (raised, _) in answers.items()} == {
        "repository": "RepositoryNotFoundError",
        "dataset": "RepositoryNotFoundError",
        "revision": "RevisionNotFoundError",
        "file": "RemoteEntryNotFoundError",
        "folder": "RemoteEntryNotFoundError",
    }


def test_commit_changes_with_any_file(tmp_path):
    folder = lay_out_dataset(tmp_path, SPLITS)
    with LoopbackHub(tmp_path) as hub:
        before = hub.repository("datasets", DATASET).commit()
        (folder / "README.md").write_text("changed", encoding="utf-8")
        assert hub.repository("datasets", DATASET).commit() != before


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-3", 206, slice(0, 4)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=0-99999999", 206, slice(None)),
        ("bytes=99999999-", 416, slice(0, 0)),
        ("", 200, slice(None)),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_ranges(hub, root, file, wanted, status, part):
    content = (root / "models" / MODEL / file).read_bytes()
    answered, headers, body = get(f"{hub.url}/{MODEL}/resolve/main/{file}", Range=wanted)
    assert (answered, body) == (status, content[part])
    assert int(headers["Content-Length"]) == len(body)
    if status == 206:
        start, stop, _ = part.indices(len(content))
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(content)}"


def test_switches_fail_the_chosen_requests_only(hub, tmp_path):
    hub.fail_with(500, "config.json")
    assert get(f"{hub.url}/{MODEL}/resolve/main/config.json")[0] == 500
    assert get(f"{hub.url}/api/models/{MODEL}")[0] == 200
    hub.fail_with(401)
    answers = ask(hub_environment(hub.url, tmp_path), model=f"api.model_info({MODEL!r}).sha")
    assert answers["model"][0] == "HfHubHTTPError"
    assert [request.status for request in hub.requests] == [500, 200, 401]


def test_a_hub_that_never_answers_or_is_gone(root, tmp_path):
    call = f"api.model_info({MODEL!r}, timeout=0.5).sha"
    with LoopbackHub(root) as hub:
        hub.delay = 300
        raised, seconds = ask(hub_environment(hub.url, tmp_path), silent=call)["silent"]
        assert raised == "ReadTimeout" and 0.4 < seconds < 5
        closing = time.monotonic()
    assert time.monotonic() - closing < 5  # the silent answers are given up, not waited for
    raised, seconds = ask(hub_environment(hub.url, tmp_path), gone=call)["gone"]
    assert raised == "ConnectError" and seconds < 5


def test_nothing_of_this_machine_reaches_the_client(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setenv(name, "1")
    environment = hub_environment("http://127.0.0.1:9", tmp_path, HF_HUB_ETAG_TIMEOUT="1")
    kept = {name for name in environment if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    assert kept == {
        "HF_ENDPOINT",
        "HF_HOME",
        "HF_UPDATE_DOWNLOAD_COUNTS",
        "HF_HUB_DISABLE_TELEMETRY",
        "HF_HUB_ETAG_TIMEOUT",
    }
    assert urlsplit(environment["HF_ENDPOINT"]).port == 9

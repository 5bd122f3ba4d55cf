"""Models and data sets of ModelScope through its real client, against a stand-in on this machine."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from loopback_hub import LoopbackHub, hub_environment, lay_out_model, lay_out_model_and_reviews
from loopback_modelscope import LoopbackModelScope
from modelscope_hub import _download
from small import ask, assert_one_message, run_main, run_script
from small_runs import as_if_killed

import train
from data.data_loader import load_hub_dataset
from model_evaluation.evaluation import training_splits
from runtime.errors import UserError
from runtime.hub_download import DATASET_FILES, MODEL_FILES, fetch
from training.checkpoints import read_manifest

MODEL, DATASET = "Qwen/Qwen2.5-1.5B", "lansinuote/ChnSentiCorp"
NOWHERE = "http://127.0.0.1:9"
SHORT = ["--max_steps", "2", "--max_length", "32", "--batch_size", "4"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    root = tmp_path_factory.mktemp("modelscope")
    folder, dataset = lay_out_model_and_reviews(root)
    # What must not come along: code, pickles, other frameworks' weights.
    for name in ("modeling_qwen.py", "pytorch_model.bin", "training_args.pt", "model.onnx", "setup.sh"):
        (folder / name).write_bytes(b"run me")
    (dataset / "load.py").write_bytes(b"run me")
    return root


@pytest.fixture
def root(layout, tmp_path):
    return shutil.copytree(layout, tmp_path / "served")


@pytest.fixture
def hub(root, client):
    with LoopbackModelScope(root) as hub:
        client.setenv("MODELSCOPE_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def client(tmp_path, monkeypatch):
    """This process as a client with empty caches, online, that can reach neither hub."""
    for name, value in hub_environment(NOWHERE, tmp_path / "home").items():
        if name.startswith(("MODELSCOPE_", "NO_PROXY", "no_proxy")):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("SENTIMENT_HUB", raising=False)
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "home" / "datasets")
    monkeypatch.setattr(_download, "DOWNLOAD_RETRY_TIMES", 0)
    monkeypatch.setattr(_download, "DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.0)
    return monkeypatch


def reach_hugging_face(client, url):
    client.setattr(constants, "ENDPOINT", url)
    client.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def get(name=MODEL, commit=None, hub="modelscope", kind="model"):
    return fetch(name, kind, MODEL_FILES if kind == "model" else DATASET_FILES, "another way", commit, hub)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_arrives_whole_and_without_code_or_pickles(hub, root):
    folder, commit = get()
    assert commit == f"modelscope:{hub.commit('models', MODEL)}"
    assert files_in(folder) == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    for name in files_in(folder):
        assert (folder / name).read_bytes() == (root / "models" / MODEL / name).read_bytes()
    assert {query["Revision"] for query in hub.queries if "FilePath" in query} == {hub.commit("models", MODEL)}


def test_a_data_set_arrives_in_pages_and_is_read_by_the_same_rules(hub, root, client):
    client.setattr("runtime.hubs.modelscope.PAGE_SIZE", 2)
    folder, _ = get(DATASET, kind="dataset")
    assert not files_in(folder) & {"load.py"} and len(files_in(folder)) == 4
    splits = load_hub_dataset(DATASET, hub="modelscope")
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 40, "validation": 10, "test": 10}
    (root / "datasets" / DATASET / "README.md").write_text("---\nconfigs: [{data_files: /etc/*.csv}]\n---\n")
    with pytest.raises(UserError, match="数据集之外"):
        load_hub_dataset(DATASET, hub="modelscope")


def test_the_commit_is_found_where_the_hub_does_not_say_its_first_digits(hub):
    hub.names_commits = False
    assert get()[1] == f"modelscope:{hub.commit('models', MODEL)}"


def test_a_commit_that_would_bring_other_files_is_not_recorded(hub):
    """The last commit has deleted a file: it stands at none of those that are left."""
    hub.names_commits = False
    hub.more_entries = [
        {"Path": "a.txt", "Type": "blob", "Size": 1, "Sha256": "", "Revision": "b" * 40, "CommittedDate": 1_800_000_000}
    ]
    with pytest.raises(UserError, match=r"没有提交"):
        get()


def test_the_cache_serves_again_offline_and_when_the_hub_is_gone(hub, client, capsys):
    first = get()
    asked = len(hub.requests)
    assert get(commit=first[1]) == first and len(hub.requests) == asked
    assert get() == first
    assert [request.path for request in hub.requests[asked:]] == [f"/api/v1/models/{MODEL}/repo/files"]
    capsys.readouterr()
    client.setenv("MODELSCOPE_ENDPOINT", NOWHERE)
    assert get() == first
    said = capsys.readouterr().err
    assert f"连不上 {NOWHERE}" in said and first[0].name[:8] in said
    client.setattr(constants, "HF_HUB_OFFLINE", True)
    assert get() == first and get(commit=first[1]) == first and get(hub="auto") == first
    assert not capsys.readouterr().err


def test_offline_with_nothing_in_the_cache(client):
    client.setattr(constants, "HF_HUB_OFFLINE", True)
    for hub in ("modelscope", "auto"):
        with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
            get(hub=hub)


def test_a_hub_out_of_reach_sends_to_the_other_one(hub, capsys):
    folder, commit = get(hub="auto")
    assert commit.startswith("modelscope:") and (folder / "model.safetensors").is_file()
    said = capsys.readouterr().err
    assert said.count("注意：") == 1 and f"连不上 {NOWHERE}" in said and "改从 ModelScope" in said
    with pytest.raises(UserError, match=f"连不上 {NOWHERE}"):
        get(hub="huggingface")


def test_a_hub_that_answers_is_not_left(hub, root, client):
    with LoopbackHub(root) as hugging_face:
        reach_hugging_face(client, hugging_face.url)
        assert get(hub="auto")[1] == hugging_face.repository("models", MODEL).commit()
        with pytest.raises(UserError, match="没有模型 no/such"):
            get("no/such", hub="auto")
        hugging_face.fail_with(500, "/storage/")
        shutil.rmtree(constants.HF_HUB_CACHE)
        with pytest.raises(UserError, match="500"):
            get(hub="auto")
        assert not hub.requests


def test_neither_hub_can_be_reached(client):
    with pytest.raises(UserError, match=MODEL) as error:
        get(hub="auto")
    assert str(error.value).count(f"连不上 {NOWHERE}") == 2 and "HF_ENDPOINT" in str(error.value)


def test_the_environment_chooses_the_hub_for_programs(hub, client):
    client.setenv("SENTIMENT_HUB", "modelscope")
    assert get(hub=None)[1].startswith("modelscope:")
    client.setenv("SENTIMENT_HUB", "modelscop")
    with pytest.raises(UserError, match="SENTIMENT_HUB"):
        get(hub=None)


def test_a_recorded_commit_is_asked_of_its_own_hub(hub, root, client, capsys, tmp_path):
    with LoopbackHub(root) as hugging_face:
        reach_hugging_face(client, hugging_face.url)
        theirs, ours = get(hub="huggingface"), get()
        # What is in a cache needs no hub, whichever is chosen.
        assert get(commit=theirs[1]) == theirs and get(commit=ours[1], hub="huggingface") == ours
        assert get(commit=ours[1], hub="auto") == ours
        capsys.readouterr()
        shutil.rmtree(ours[0].parents[1])
        # Chosen by hand, the other hub gives its newest, and says that it may be another.
        assert get(commit=ours[1], hub="huggingface") == theirs
        assert ours[1] in capsys.readouterr().err
        # Left to itself, the commit's own hub is asked.
        assert get(commit=ours[1], hub="auto") == ours


@pytest.mark.parametrize(
    "path",
    ["../../evil.json", "/tmp/evil.json", "a/../../../evil.json", "C:evil.json", "..\\evil.json", "\\\\x\\y.json"],
)
def test_a_file_name_that_leads_away_is_refused(hub, tmp_path, path):
    entry = {"Path": path, "Type": "blob", "Size": 2, "Sha256": hashlib.sha256(b"{}").hexdigest()}
    hub.more_entries = [entry | {"Revision": "0" * 40, "CommittedDate": 1}]
    with pytest.raises(UserError, match="指向别处"):
        get()
    assert not hub.fetched() and not list(tmp_path.rglob("evil.json"))


@pytest.mark.parametrize("commit", ["modelscope:../../etc", "modelscope:", "modelscope:master"])
def test_a_commit_of_an_adapter_cannot_lead_away(hub, commit):
    with pytest.raises(UserError, match="不是 ModelScope 的提交"):
        get(commit=commit)


def test_a_commit_that_is_gone(hub):
    with pytest.raises(UserError, match="没有提交 0000"):
        get(commit="modelscope:" + "0" * 40)


@pytest.mark.parametrize(
    ("status", "part", "words"),
    [
        (401, "", "401.*MODELSCOPE_API_TOKEN"),
        (403, "", "403.*MODELSCOPE_API_TOKEN"),
        (429, "", "429.*几分钟"),
        (503, "", "回答 503"),
        (403, "/repo", "403"),
        (500, "/storage/", "回答 500"),
    ],
)
def test_what_the_hub_refuses_is_told_with_its_cause(hub, status, part, words):
    hub.fail_with(status, part)
    with pytest.raises(UserError, match=words) as error:
        get()
    assert MODEL in str(error.value)


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("name", ["no/such", "ownerless"])
def test_a_name_that_is_not_there(hub, kind, name):
    with pytest.raises(UserError, match=f"ModelScope 上没有.* {name}"):
        get(name, kind=kind)


def test_out_of_reach_here_and_not_there_on_the_other_hub(hub):
    with pytest.raises(UserError, match="ModelScope 上没有数据集 no/such") as error:
        get("no/such", kind="dataset", hub="auto")
    assert all(word in str(error.value) for word in (f"连不上 {NOWHERE}", "HF_ENDPOINT", "another way"))


def test_an_answer_that_is_no_listing(hub, client):
    for body in (b"<html>login</html>", b"[]", b'{"Data": 1}', b'{"Data": {"Files": [{}]}}', b'{"Data": {"Files": 7}}'):
        client.setattr(
            "loopback_modelscope.ModelScopeHandler.route", lambda self, *_, body=body: self.answer(200, body, {})
        )
        with pytest.raises(UserError, match=hub.url):
            get()


def test_a_hub_that_never_answers(hub, client):
    client.setattr("runtime.hubs.modelscope.PROBE_SECONDS", 0.2)
    hub.delay = 300
    with pytest.raises(UserError, match=hub.url):
        get()


def test_a_download_that_broke_off_is_gone_on_with(hub, client):
    hub.fail_with(500, "/storage/models/")
    with pytest.raises(UserError, match="回答 500"):
        get()
    client.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="不完整"):
        get()
    client.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.failing = None
    before = len(hub.fetched())
    folder, _ = get()
    assert hub.fetched()[before:] == ["model.safetensors"]
    # A file that was cut afterwards is fetched again.
    (folder / "tokenizer.json").write_text("{")
    get()
    assert hub.fetched()[before + 1 :] == ["tokenizer.json"]


def test_what_arrives_other_than_listed_is_not_kept(hub, client):
    send = "loopback_modelscope.ModelScopeHandler.send_content"
    from loopback_modelscope import ModelScopeHandler

    honest = ModelScopeHandler.send_content

    def tampered(self, content, headers):
        honest(self, content.replace(b"qwen2", b"qwen3"), headers)

    client.setattr(send, tampered)
    with pytest.raises(UserError, match="清单不符"):
        get()
    client.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="不完整"):
        get()


def test_a_token_goes_along(hub, client):
    client.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    get()
    assert set(hub.tokens) == {"Bearer ms-secret", None}  # none to where the large files lie


def test_a_cache_that_cannot_be_written(hub, client, tmp_path):
    (tmp_path / "file").write_text("")
    client.setenv("MODELSCOPE_CACHE", str(tmp_path / "file"))
    assert_one_message(run_main(lambda: get() and None), "file")


def test_a_disk_that_is_full_of_the_download(hub, client, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, before[1]))
    try:
        with pytest.raises(UserError, match=r"磁盘还剩.*MODELSCOPE_CACHE") as error:
            get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert MODEL in str(error.value)


def short_training(output, *flags):
    return run_main(train.main, *SHORT, "--output_dir", output, "--save_steps", "1", *flags)


def read(adapter, name="sentiment_config.json"):
    return json.loads((adapter / name).read_text(encoding="utf-8"))


def test_a_training_from_modelscope_ends_and_goes_on_with_its_commit(hub, root, client, tmp_path):
    """The default command where huggingface.co is out of reach; then the repository has moved on."""
    output, commit = tmp_path / "out", f"modelscope:{hub.commit('models', MODEL)}"
    result = short_training(output)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("改从 ModelScope") == 2  # the reviews and the model
    adapter = output / "lora_adapter"
    recorded = read(adapter)
    assert (recorded["base_model"], recorded["base_revision"]) == (MODEL, commit)
    assert read_manifest(output / "checkpoint-1")["fingerprint"]["基座 commit"] == commit
    before = read(adapter, "run_info.json")["fingerprint"]

    # Killed, it goes on with the commit it began with, which is in the cache.
    as_if_killed(output, step=1)
    lay_out_model(root, seed=1)
    assert f"modelscope:{hub.commit('models', MODEL)}" != commit
    result = short_training(output)
    assert result.returncode == 0 and "checkpoint-1 继续训练" in result.stdout, result.stderr
    assert read(adapter, "run_info.json")["fingerprint"] == before

    # On another machine the cache is empty, and that commit is gone: nothing else is taken for it.
    client.setenv("MODELSCOPE_CACHE", str(tmp_path / "elsewhere"))
    assert_one_message(ask(adapter), commit.removeprefix("modelscope:"), "--base_model_name")


def test_an_adapter_from_modelscope_finds_its_base_on_another_machine(hub, root, client, tmp_path):
    """Without --hub, and though Hugging Face, which has another commit, can be reached there."""
    output = tmp_path / "out"
    result = short_training(output, "--hub", "modelscope", "--dataset", DATASET)
    assert result.returncode == 0 and "注意" not in result.stderr, result.stderr
    adapter = output / "lora_adapter"
    answer = ask(adapter)
    lay_out_model(tmp_path / "theirs", seed=1)
    with LoopbackHub(tmp_path / "theirs") as hugging_face:
        reach_hugging_face(client, hugging_face.url)
        client.setenv("MODELSCOPE_CACHE", str(tmp_path / "elsewhere"))
        there = ask(adapter)
        assert there.returncode == 0 and there.stdout == answer.stdout, there.stderr
        assert not hugging_face.requests
        # The reviews it was trained on are read again from where they came.
        splits = training_splits(str(adapter))
        assert len(splits["test"]) == 10 and not hugging_face.requests
        other = ask(adapter, "--hub", "huggingface")
        assert other.returncode == 0, other.stderr
    client.setenv("MODELSCOPE_CACHE", str(tmp_path / "empty"))
    reach_hugging_face(client, NOWHERE)
    client.setenv("MODELSCOPE_ENDPOINT", NOWHERE)
    assert_one_message(ask(adapter), f"连不上 {NOWHERE}", MODEL)


def test_in_a_process_of_its_own_the_clients_log_is_silent(root, tmp_path):
    fetch_all = "lambda: print(fetch('Qwen/Qwen2.5-1.5B', 'model', MODEL_FILES, 'another way')[1])"
    script = f"from runtime.errors import run_script; from runtime.hub_download import *; run_script({fetch_all})"
    with LoopbackModelScope(root) as hub:
        environment = hub_environment(NOWHERE, tmp_path) | {"MODELSCOPE_ENDPOINT": hub.url, "HF_HUB_OFFLINE": ""}
        result = run_script("-c", script, env=environment)
        assert result.stdout.strip() == f"modelscope:{hub.commit('models', MODEL)}", result.stderr
    assert "INFO" not in result.stderr and result.stderr.count("注意：") == 1

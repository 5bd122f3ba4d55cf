"""`--push_to_hub` and `--push_to_modelscope`, against stand-ins of both hubs on this machine."""

import json

import pytest
from loopback_uploads import UploadHub
from small import assert_one_message, change_json, make_small_adapter, run_main

from deployment import export
from deployment.exports.hub_upload import push
from runtime.errors import UserError

FLAGS = {"hub": "--push_to_hub", "modelscope": "--push_to_modelscope"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that takes uploads in place of both real ones, with its token in the environment."""
    from huggingface_hub import constants

    with UploadHub(token="right") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "right")
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", "right")
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope"))
        monkeypatch.setenv("NO_PROXY", "*")
        yield server


@pytest.fixture
def folder(tmp_path):
    """A folder as an export leaves it."""
    folder = tmp_path / "exported"
    folder.mkdir()
    for name in ("README.md", "config.json", "run_info.json", ".hidden"):
        (folder / name).write_text(f'{{"name": "{name}"}}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


def push_to(kind: str, folder, name="me/model") -> None:
    push(folder, **{"hub": None, "modelscope": None, kind: name})


@pytest.mark.parametrize("kind", FLAGS)
def test_a_folder_arrives_whole_in_a_new_private_repository(kind, hub, folder, capsys):
    push_to(kind, folder)
    uploaded = hub.repositories["me/model"]
    assert uploaded["visibility"] == "private"
    kept_here = {"run_info.json", ".hidden"}  # paths of this machine stand in the first
    assert uploaded["files"] == {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in kept_here}
    assert "me/model" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {*uploaded["files"], *kept_here}

    # Once more, into the repository that is there, which stays as its owner has made it.
    uploaded["visibility"] = "public"
    (folder / "config.json").write_text("{}")
    push_to(kind, folder)
    assert uploaded["files"]["config.json"] == b"{}" and uploaded["visibility"] == "public"


@pytest.mark.parametrize("kind", FLAGS)
@pytest.mark.parametrize(("status", "words"), [(401, "令牌不对"), (403, "没有写 me/model 的权限"), (404, "没有仓库")])
def test_a_refusal_is_told_and_the_folder_stays(kind, status, words, hub, folder):
    hub.refuse = status
    with pytest.raises(UserError, match=f"{FLAGS[kind]}.*{words}.*{status}.*可以以后再传"):
        push_to(kind, folder)
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", FLAGS)
def test_a_hub_that_cannot_be_reached_is_told(kind, hub, folder, monkeypatch):
    monkeypatch.setattr("modelscope_hub._openapi.API_MAX_RETRIES", 1)  # else it goes on for 16 s
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda *_: None)
    hub.__exit__()
    with pytest.raises(UserError, match=f"{FLAGS[kind]}.*连不上 {hub.url}.*可以以后再传"):
        push_to(kind, folder)


def test_offline_is_told(hub, folder, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        push_to("hub", folder)


@pytest.mark.parametrize(("kind", "way"), [("hub", "hf auth login"), ("modelscope", "MODELSCOPE_API_TOKEN")])
def test_without_a_token_nothing_begins(kind, way, hub, plain_adapter, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    result = run_main(
        export.main, "--model_path", plain_adapter, "--output_dir", tmp_path / "new", "--format", "adapter",
        FLAGS[kind], "me/model",
    )  # fmt: skip
    assert_one_message(result, FLAGS[kind], "没有登录", way)
    assert not hub.requests and not (tmp_path / "new").exists()


def test_an_adapter_goes_up_with_a_fresh_card_and_its_base_findable(hub, small_base, tmp_path):
    adapter = make_small_adapter(tmp_path / "lora_adapter", small_base)
    change_json(adapter / "adapter_config.json", base_model_name_or_path="relative", revision="x")
    change_json(adapter / "sentiment_config.json", temperature=1.25)
    result = run_main(
        export.main, "--model_path", adapter, "--output_dir", tmp_path / "new", "--format", "adapter",
        "--push_to_hub", "me/model", "--push_to_modelscope", "me/other",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("已传到") == 2
    files = hub.repositories["me/model"]["files"]
    assert files == hub.repositories["me/other"]["files"]
    assert files["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").read_bytes()
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == str(small_base) and config["revision"] is None
    assert "/ 1.25" in files["README.md"].decode() and "run_info.json" not in files

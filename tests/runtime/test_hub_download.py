"""`python train.py` on its default path, through the real hub libraries, against a hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from loopback_hub import LoopbackHub, hub_environment, lay_out_model_and_reviews
from small import REPOSITORY, assert_one_message, change_json, run_script

ONLINE = {"HF_HUB_OFFLINE": ""}  # run_script is offline by itself
SHORT = ["--max_steps", "2", "--max_length", "32", "--batch_size", "4"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    lay_out_model_and_reviews(root)
    return root


def train(url, home, *arguments, **more):
    environment = hub_environment(url, home, **more)
    return run_script("train.py", *SHORT, *arguments, env=ONLINE | environment)


@pytest.fixture(scope="module")
def first_run(root, tmp_path_factory):
    """(result, home with the warm cache, output) of the default command."""
    home, output = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("out")
    with LoopbackHub(root) as hub:
        result = train(hub.url, home, "--output_dir", output)
        commit = hub.repository("models", "Qwen/Qwen2.5-1.5B").commit()
        asked = {request.path for request in hub.requests}
    assert result.returncode == 0, result.stdout + result.stderr
    return result, home, output, commit, asked


def test_the_default_command_trains_on_the_hubs_model_and_reviews(first_run):
    result, _, output, commit, asked = first_run
    config = json.loads((output / "lora_adapter" / "sentiment_config.json").read_text())
    assert (config["base_model"], config["base_revision"]) == ("Qwen/Qwen2.5-1.5B", commit)
    info = json.loads((output / "lora_adapter" / "run_info.json").read_text())
    assert info["metrics"]["test"]["n"] == 10 and "train 40，validation 10，test 10" in result.stdout
    assert any("Qwen/Qwen2.5-1.5B" in path for path in asked) and any(
        "lansinuote/ChnSentiCorp" in path for path in asked
    )
    peft_config = json.loads((output / "lora_adapter" / "adapter_config.json").read_text())
    assert (peft_config["base_model_name_or_path"], peft_config["revision"]) == ("Qwen/Qwen2.5-1.5B", commit)


def test_a_warm_cache_serves_when_the_hub_is_gone(first_run, tmp_path):
    _, home, output, commit, _ = first_run
    gone = "http://127.0.0.1:9"
    result = train(gone, home, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"连不上 {gone}" in result.stderr and f"Qwen/Qwen2.5-1.5B（提交 {commit[:8]}）" in result.stderr
    answer = run_script(
        "inference.py", "--model_path", output / "lora_adapter", "--text", "好",
        env=ONLINE | hub_environment(gone, home),
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr


def test_an_unreachable_hub_ends_within_seconds_with_the_ways_out(tmp_path):
    started = time.monotonic()
    result = train("http://127.0.0.1:9", tmp_path, "--output_dir", tmp_path / "out")
    assert_one_message(result, "127.0.0.1:9", "HF_ENDPOINT", "--train_file", "--preset tiny")
    assert time.monotonic() - started < 60  # most of it importing, on a busy machine
    assert not (tmp_path / "out").exists()


def test_a_hub_that_never_answers(root, tmp_path):
    with LoopbackHub(root) as hub:
        hub.delay = 300
        started = time.monotonic()
        result = train(hub.url, tmp_path, "--output_dir", tmp_path / "out")
        assert time.monotonic() - started < 60  # left to themselves the libraries never end
    assert_one_message(result, "HF_ENDPOINT", "--preset tiny")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model_name", "no/such-model"], ["no/such-model", "--model_name"]),
        (["--dataset", "no/such-data"], ["no/such-data", "--train_file"]),
        (["--model_name", "no such/model"], ["no such/model"]),
    ],
)
def test_names_that_are_not_there(root, first_run, tmp_path, arguments, words):
    with LoopbackHub(root) as hub:
        assert_one_message(train(hub.url, first_run[1], "--output_dir", tmp_path, *arguments), *words)


def predict(adapter, url, home, **more):
    environment = ONLINE | hub_environment(url, home, **more)
    return run_script("inference.py", "--model_path", adapter, "--text", "好", "--json", env=environment)


def test_an_adapter_goes_to_another_machine_where_nothing_is_cached(root, first_run, tmp_path):
    """Predict, evaluate and audit each fetch the base, of the commit it was trained on, and what data they need."""
    _, home, output, commit, _ = first_run
    adapter = output / "lora_adapter"
    scripts = {
        "eval": ["eval.py", "--model_path", adapter, "--output_dir", tmp_path / "evaluated"],
        "audit": ["-m", "data.audit", "--output_dir", tmp_path / "audited"],
    }
    with LoopbackHub(root) as hub:
        expected = predict(adapter, hub.url, home)
        asked = len(hub.requests)
        answer = predict(adapter, hub.url, tmp_path / "home")
        fetched = {request.path for request in hub.requests[asked:] if request.method == "GET"}
        for name, command in scripts.items():
            environment = ONLINE | hub_environment(hub.url, tmp_path / f"home_{name}")
            result = run_script(*command, env=environment)
            assert result.returncode == 0, result.stderr
    assert asked == 0  # the first machine has all of it
    assert answer.returncode == 0 and answer.stdout == expected.stdout, answer.stderr
    assert f"/Qwen/Qwen2.5-1.5B/resolve/{commit}/config.json" in fetched
    assert json.loads((tmp_path / "evaluated" / "metrics.json").read_text(encoding="utf-8"))
    offline = predict(adapter, "http://127.0.0.1:9", tmp_path / "home", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0 and offline.stdout == expected.stdout


def test_a_download_that_broke_off_is_gone_on_with(root, first_run, tmp_path):
    _, _, output, *_ = first_run
    adapter = output / "lora_adapter"
    with LoopbackHub(root) as hub:
        hub.fail_with(500, "/storage/models/")
        assert_one_message(predict(adapter, hub.url, tmp_path), "Qwen/Qwen2.5-1.5B", "500")
        hub.failing = None
        assert_one_message(
            predict(adapter, "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE", "不完整"
        )
        before = len(hub.requests)
        answer = predict(adapter, hub.url, tmp_path)
        again = [request.path for request in hub.requests[before:] if request.method == "GET"]
    assert answer.returncode == 0, answer.stderr
    assert not any(path.endswith("tokenizer.json") for path in again)  # that was there already


def test_files_that_another_program_has_fetched_are_not_taken_for_the_whole(root, first_run, tmp_path):
    """`AutoTokenizer.from_pretrained` leaves a commit in the cache without weights."""
    _, _, output, commit, _ = first_run
    fetch = (
        f"from huggingface_hub import hf_hub_download as d; d('Qwen/Qwen2.5-1.5B', 'config.json', revision='{commit}')"
    )
    with LoopbackHub(root) as hub:
        assert run_script("-c", fetch, env=ONLINE | hub_environment(hub.url, tmp_path)).returncode == 0
        answer = predict(output / "lora_adapter", hub.url, tmp_path)
    assert answer.returncode == 0, answer.stderr


def test_a_commit_that_is_gone_from_the_hub(root, first_run, tmp_path):
    """One message says what is missing, where, and the way out; another commit in the cache does not serve."""
    _, home, output, *_ = first_run
    adapter = shutil.copytree(output / "lora_adapter", tmp_path / "adapter")
    gone = "0" * 40
    change_json(adapter / "sentiment_config.json", base_revision=gone)
    with LoopbackHub(root) as hub:
        assert_one_message(predict(adapter, hub.url, home), "Qwen/Qwen2.5-1.5B", gone, "--base_model_name")


@pytest.mark.parametrize("more", [{}, {"HF_HUB_DISABLE_XET": "0"}], ids=["by default", "as the user has set it"])
def test_a_mirror_is_not_asked_for_xet_which_it_cannot_serve(root, first_run, tmp_path, more):
    """The servers of Xet are the hub's own: a client that wants it asks for a token, then goes there."""
    adapter = first_run[2] / "lora_adapter"
    with LoopbackHub(root) as hub:
        hub.offers_xet = True
        result = predict(adapter, hub.url, tmp_path, **more)
        wanted = [request.path for request in hub.requests if "xet" in request.path]
    assert bool(wanted) == bool(more)
    assert result.returncode == (2 if more else 0), result.stderr


def test_xet_is_left_alone_at_the_hub_itself_and_off_at_a_mirror_also_for_programs():
    ask = "import os, inference; print(os.environ.get('HF_HUB_DISABLE_XET'))"
    for endpoint, switch in {"https://huggingface.co/": "None", "": "None", "https://hf-mirror.com": "1"}.items():
        environment = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": None}
        environment = {key: value for key, value in (os.environ | environment).items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-c", ask], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == switch, (endpoint, done.stderr)


LIMITED = {"ratelimit": '"api";r=0;t=55', "ratelimit-policy": '"fixed window";"api";q=500;w=300'}


@pytest.mark.parametrize(
    ("status", "part", "headers", "words"),
    [
        (
            403,
            "/resolve/",
            {"X_Error_Code": "GatedRepo"},
            ["https://huggingface.co/Qwen/Qwen2.5-1.5B", "同意", "hf auth login"],
        ),
        (401, "/api/", {"X_Error_Code": "GatedRepo"}, ["同意", "hf auth login"]),
        (401, "/api/", {"X_Error_Message": "Invalid credentials in Authorization header"}, ["令牌", "401", "HF_TOKEN"]),
        (403, "/resolve/", {"X_Error_Message": "Not from this place"}, ["403", "权限", "Not from this place"]),
        (429, "/api/", {"Retry_After": "120"}, ["429", "限速", "等 120 秒"]),
        (429, "/api/", LIMITED, ["429", "等 55 秒"]),
        (429, "/api/", {}, ["429", "等几分钟"]),
        (503, "/api/", {}, ["503", "HF_ENDPOINT"]),
    ],
    ids=["gated file", "gated", "wrong token", "forbidden", "limited", "limited by policy", "limited, no time", "down"],
)
def test_what_the_hub_refuses_is_told_with_its_cause(root, tmp_path, status, part, headers, words):
    fetch = "lambda: fetch('Qwen/Qwen2.5-1.5B', 'model', MODEL_FILES, 'something else')"
    script = f"from runtime.errors import run_script; from runtime.hub_download import *; run_script({fetch})"
    with LoopbackHub(root) as hub:
        hub.fail_with(status, part, **headers)
        result = run_script("-c", script, env=ONLINE | hub_environment(hub.url, tmp_path))
    assert_one_message(result, "Qwen/Qwen2.5-1.5B", *words)
    assert ("hf-mirror" in result.stderr) == (status == 503)  # a mirror helps against nothing else


def test_a_disk_that_is_full_of_the_download(root, first_run, tmp_path):
    resource = pytest.importorskip("resource")
    limit = (1 << 15, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    with LoopbackHub(root) as hub:
        environment = ONLINE | hub_environment(hub.url, tmp_path)
        result = run_script(
            "inference.py", "--model_path", first_run[2] / "lora_adapter", "--text", "好", env=environment,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        )  # fmt: skip
    assert_one_message(result, "Qwen/Qwen2.5-1.5B", str(tmp_path), "磁盘还剩", "HF_HOME")
    assert "hf-mirror" not in result.stderr

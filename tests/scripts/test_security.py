"""Nothing from outside is run, nothing is written elsewhere: what SECURITY.md says, proved."""

import io
import json
import marshal
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from report_inputs import invented, write_inputs
from safetensors.torch import load_file
from small import REPOSITORY, ask, assert_one_message, change_json, run_script

from data import word_segmentation
from model_evaluation.confidence_analysis import save_calibration
from model_evaluation.report_generator import write_report
from runtime.errors import UserError
from training.callbacks import BestAdapter


class Touch:
    """A pickle that leaves a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def piped_yes(monkeypatch):
    """Whoever asks a question on the terminal is answered yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 10))


def program(folder: Path, touched: Path) -> None:
    """Code of the folder's own, and the files that ask to have it run."""
    (folder / "evil.py").write_text(
        f"from pathlib import Path; Path({str(touched)!r}).touch()\nclass C: pass\nclass M: pass\nclass T: pass\n"
    )


def test_a_folder_with_only_pickled_weights_is_refused_and_not_loaded(adapter_copy, base_copy, tmp_path):
    for folder, name, pickled in (
        (adapter_copy, "adapter_model.safetensors", "adapter_model.bin"),
        (base_copy, "model.safetensors", "pytorch_model.bin"),
    ):
        (folder / name).rename(tmp_path / name)
        (folder / pickled).write_bytes(pickle.dumps({"weight": Touch(tmp_path / "touched")}))
        assert_one_message(ask(adapter_copy, "--base_model_name", base_copy), str(folder))
        (tmp_path / name).rename(folder / name)
    assert (
        ask(adapter_copy, "--base_model_name", base_copy).returncode == 0
    )  # the pickles lie beside and nobody reads them
    assert not (tmp_path / "touched").exists()


def test_even_harmless_pickled_weights_are_not_read(adapter_copy, base_copy):
    torch.save(load_file(base_copy / "model.safetensors"), base_copy / "pytorch_model.bin")
    (base_copy / "model.safetensors").unlink()
    assert_one_message(ask(adapter_copy, "--base_model_name", base_copy), "base", "safetensors")


@pytest.mark.parametrize("model_type", ["qwen2", "evil"])
def test_a_base_does_not_bring_code_of_its_own(adapter_copy, base_copy, tmp_path, piped_yes, model_type):
    """A known architecture is loaded by the library's own code, any other refused; nobody is asked."""
    program(base_copy, tmp_path / "touched")
    auto_map = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"}
    change_json(base_copy / "config.json", model_type=model_type, auto_map=auto_map)
    result = ask(adapter_copy, "--base_model_name", base_copy)
    if model_type == "qwen2":
        assert result.stdout == ask(adapter_copy).stdout and result.returncode == 0
    else:
        assert_one_message(result, "base")
    assert not (tmp_path / "touched").exists()


def test_a_tokenizer_does_not_bring_code_of_its_own(adapter_copy, tmp_path, piped_yes):
    expected = ask(adapter_copy).stdout
    program(adapter_copy, tmp_path / "touched")
    change_json(
        adapter_copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}, tokenizer_class="T"
    )
    result = ask(adapter_copy)
    assert result.stdout == expected if result.returncode == 0 else "分词器" in result.stderr
    assert result.returncode in (0, 2) and not (tmp_path / "touched").exists()


def test_templates_are_not_rendered_and_other_names_not_followed(adapter_copy, tmp_path):
    expected = ask(adapter_copy).stdout
    template = "{{ cycler.__init__.__globals__.os.mknod('" + str(tmp_path / "touched") + "') }}{{ 1 / 0 }}"
    (adapter_copy / "chat_template.jinja").write_text(template)
    change_json(adapter_copy / "tokenizer_config.json", chat_template=template)
    change_json(adapter_copy / "adapter_config.json", base_model_name_or_path="/etc", revision="../../x")
    result = ask(adapter_copy)
    assert result.returncode == 0 and result.stdout == expected and not (tmp_path / "touched").exists()


def test_a_checkpoint_cannot_say_where_to_write(tmp_path):
    """Only the four figures of best_adapter.json are taken."""
    checkpoint, out = tmp_path / "checkpoint-1", tmp_path / "out"
    checkpoint.mkdir(), out.mkdir()
    (checkpoint / "best_adapter.safetensors").write_bytes(b"x")
    state = {"accuracy": 0.5, "loss": 1.0, "step": 3, "misses": 0, "output_dir": str(tmp_path), "patience": -1}
    (checkpoint / "best_adapter.json").write_text(json.dumps(state))
    best = BestAdapter(out)
    best.restore_from(checkpoint)
    assert best == BestAdapter(out, None, "accuracy", 0.5, 1.0, 3, 0)


# ---- what is written


def test_calibration_does_not_write_through_a_link_into_another_folder(adapter, tmp_path):
    """A stranger's adapter may bring a link in place of a file; calibration is the one that writes into an adapter."""
    mine, foreign = (shutil.copytree(adapter, tmp_path / name) for name in ("mine", "foreign"))
    (foreign / "sentiment_config.json").unlink()
    (foreign / "sentiment_config.json").symlink_to(mine / "sentiment_config.json")
    before = (mine / "sentiment_config.json").read_bytes()
    script = "model_evaluation/confidence_analysis.py"
    result = run_script(script, "--model_path", foreign, "--output_dir", tmp_path / "out")
    assert_one_message(result, str(foreign / "sentiment_config.json"), "链接", "cp -rL")
    with pytest.raises(UserError, match="链接"):
        save_calibration(str(foreign), 2.0, [])
    assert (mine / "sentiment_config.json").read_bytes() == before


def test_what_was_typed_at_the_prompt_is_written_nowhere(plain_adapter, tmp_path):
    """Also what arrow keys bring back, on a terminal of its own."""
    pty = pytest.importorskip("pty")
    controller, terminal = pty.openpty()
    os.write(controller, "房间很干净\n\x1b[A\nquit\n".encode())
    command = [sys.executable, "inference.py", "--model_path", str(plain_adapter), "--interactive"]
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONUTF8": "1", "TERM": "vt100"}
    streams = {"stdin": terminal, "stdout": terminal, "stderr": subprocess.PIPE}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, timeout=120, **streams)
    os.close(terminal)
    shown = os.read(controller, 1 << 16).decode(errors="replace")
    os.close(controller)
    assert done.returncode == 0 and shown.count("%") == 2, shown  # two answers: one review, and it again
    assert not list(tmp_path.iterdir())


def test_the_word_list_in_the_temporary_folder_is_neither_read_nor_written(monkeypatch, tmp_path):
    """Whoever has put a jieba.cache there would decide where words end."""
    planted = tmp_path / "jieba.cache"
    planted.write_bytes(marshal.dumps(({"店很": 9999}, 9999)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    word_segmentation.tokenizer.cache_clear()
    for present in (True, False):
        if not present:
            planted.unlink()
        assert [word for word, *_ in word_segmentation.tokens("酒店很干净")] == ["酒店", "很", "干净"]
        word_segmentation.tokenizer.cache_clear()
    assert not list(tmp_path.iterdir())


def everywhere(value, hostile: str):
    """A result file's content with every text in it replaced, label names included."""
    if isinstance(value, dict):
        return {
            hostile if key in ("负面", "正面") else key: everywhere(item, f"{hostile}{key}")
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [everywhere(item, hostile) for item in value]
    return hostile if isinstance(value, str) else value


@pytest.mark.parametrize(
    "name", ["metrics", "confidence_analysis", "robustness_result", "baseline_comparison", "data_audit"]
)
def test_no_text_of_a_result_file_becomes_markup_in_the_report(tmp_path, name):
    """Labels, file names, versions, notes, titles: whatever a result file says."""
    write_inputs(tmp_path, invented(seed=1), invented())
    path = tmp_path / f"{name}.json"
    hostile = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"
    path.write_text(json.dumps(everywhere(json.loads(path.read_text(encoding="utf-8")), hostile)), encoding="utf-8")
    html = write_report(tmp_path, failures={hostile: hostile}).read_text(encoding="utf-8")
    assert "<script" not in html and "<img" not in html and html.count("&lt;script&gt;alert(1)") >= 2


def test_servers_of_the_tests_are_reached_from_this_machine_alone():
    texts = {path: path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("*.py")}
    servers = [path for path, text in texts.items() if "http.server" in text and path != Path(__file__)]
    assert "loopback_hub.py" in [path.name for path in servers]
    for path in servers:
        assert set(re.findall(r"Server\(\(([^)]*)\)", texts[path])) <= {'"127.0.0.1", 0'}, path

"""The repository installed as a package, not editable, and used from a folder of the user's own."""

import os
import subprocess
import sys

import pytest
from small import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what `pip install .` would put into site-packages, and nothing else of the repository."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split("\0"):
        if name and (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True, capture_output=True)
    return target


def run_there(installed, folder, *arguments) -> subprocess.CompletedProcess:
    """A Python of this environment in `folder`, with the installed copy before the editable one."""
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )


def test_an_installed_copy_trains_predicts_and_reports(installed, tmp_path):
    training = run_there(
        installed, tmp_path, "-m", "train", "--preset", "tiny", "--max_train_samples", "64", "--max_steps", "2",
        "--max_length", "32", "--eval_steps", "2",
    )  # fmt: skip
    assert training.returncode == 0, training.stderr
    (tmp_path / "data").mkdir()  # a folder of reviews beside the program is no package
    (tmp_path / "program.py").write_text(
        "from inference import SentimentPredictor\n"
        "import inference\n"
        "print(inference.__file__)\n"
        "print(SentimentPredictor(lora_path='outputs/lora_adapter').predict('很好')['label'])\n",
        encoding="utf-8",
    )
    program = run_there(installed, tmp_path, "program.py")
    assert program.returncode == 0, program.stderr
    file, label = program.stdout.split()
    assert file == str(installed / "inference.py") and label in ("正面", "负面")
    evaluation = run_there(
        installed, tmp_path, "-m", "model_evaluation.run_full_eval", "--max_samples", "10", "--steps",
        "metrics,robustness,report",
    )  # fmt: skip
    assert evaluation.returncode == 0, evaluation.stderr
    assert (tmp_path / "model_evaluation" / "outputs" / "report.html").is_file()


@pytest.mark.parametrize("name", ["configs.py", "data/__init__.py"])
def test_a_users_module_of_the_same_name_is_named(installed, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    (tmp_path / "program.py").write_text("from inference import SentimentPredictor", encoding="utf-8")
    result = run_there(installed, tmp_path, "program.py")
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert str(tmp_path / name) in message and "同名" in message and "改名" in message

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers, two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests need no network; the hub's tests set their own
os.environ.pop("SENTIMENT_HUB", None)

import inspect
import re
import shutil
import signal

import pytest
from small import make_small_adapter, make_small_base, run_script, small_reviews, write_jsonl

# In the background of a shell, Ctrl-C is ignored, and what the tests start would inherit that.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


# A test, or a fixture of its, that starts a script or a training takes seconds.
SLOW = re.compile(
    r"run_script\(|run_in_processes\(|run_main\(|train\.main|\.train\(|subprocess\.|python\(|wherever|"
    r"LoopbackHub\(|hub_environment"
)


def pytest_collection_modifyitems(items):
    """Mark the slow tests, so that `-m "not slow"` answers within a minute."""
    for item in items:
        functions = [item.function, *(found[-1].func for found in item._fixtureinfo.name2fixturedefs.values())]
        if any(SLOW.search(inspect.getsource(function)) for function in functions):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def small_base(tmp_path_factory):
    """Folder of a throwaway base."""
    return make_small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def review_files(tmp_path_factory):
    """Flags that name a training, a validation and a test file of small reviews."""
    folder, rows = tmp_path_factory.mktemp("reviews"), small_reviews(120)
    parts = {"train": rows[:80], "validation": rows[80:100], "test": rows[100:]}
    flags = []
    for name, part in parts.items():
        flags += [f"--{name}_file", str(write_jsonl(folder / f"{name}.jsonl", part))]
    return flags


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_base, review_files):
    """(finished process, output folder) of one short real training run."""
    output = tmp_path_factory.mktemp("trained")
    result = run_script(
        "train.py", "--model_name", small_base, *review_files, "--output_dir", output,
        "--learning_rate", "5e-3", "--num_epochs", "4", "--save_steps", "10", "--max_length", "64",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result, output


@pytest.fixture(scope="session")
def adapter(trained):
    """The adapter folder of that run."""
    return trained[1] / "lora_adapter"


@pytest.fixture(scope="session")
def plain_adapter(tmp_path_factory, small_base):
    """An adapter folder without a training run; whoever writes into it makes a copy."""
    return make_small_adapter(tmp_path_factory.mktemp("plain") / "lora_adapter", small_base)


@pytest.fixture
def adapter_copy(plain_adapter, tmp_path):
    """A copy of that adapter to damage."""
    return shutil.copytree(plain_adapter, tmp_path / "adapter")


@pytest.fixture
def base_copy(small_base, tmp_path):
    """A copy of the throwaway base to damage."""
    return shutil.copytree(small_base, tmp_path / "base")


@pytest.fixture
def float32(monkeypatch):
    """Training without bf16, so that sums in another order differ by rounding of float32 alone."""
    from modeling.devices import Device

    monkeypatch.setattr("training.trainer.best_device", lambda: Device("cpu", False))


@pytest.fixture(scope="session")
def whole_run(small_base, tmp_path_factory):
    """(outcome, folder) of a short training in this process that nothing interrupted."""
    from small_runs import go_on, outcome

    folder = tmp_path_factory.mktemp("whole")
    return outcome(go_on(small_base, folder), folder), folder

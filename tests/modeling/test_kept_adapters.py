"""A finished adapter that a new training replaces stays beside it as lora_adapter.<n>."""

import shutil

import pytest
from small import make_small_adapter, run_main

import train
from modeling.adapter_folder import WEIGHTS, SentimentConfig
from runtime import atomic_files


@pytest.fixture
def folder(plain_adapter, tmp_path):
    """A copy that a training may replace."""
    return shutil.copytree(plain_adapter, tmp_path / "lora_adapter")


def train_into(folder, small_base, review_files, *flags):
    result = run_main(
        train.main, "--model_name", small_base, *review_files, "--output_dir", folder, "--max_length", 32,
        "--max_steps", 1, "--lora_r", 2, *flags,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def weights(folder):
    return (folder / WEIGHTS).read_bytes()


def test_the_replaced_adapter_is_kept_whole_and_named_in_one_line(folder, small_base, review_files):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    said = train_into(folder.parent, small_base, review_files)
    kept = folder.parent / "lora_adapter.1"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert weights(folder) != weights(kept)
    assert [line for line in said.splitlines() if str(kept) in line and "--overwrite" in line]

    # The same finished command again makes the same adapter, of which no copy piles up.
    said = train_into(folder.parent, small_base, review_files)
    assert "lora_adapter.2" not in said and "lora_adapter.2" not in names(folder.parent)

    # Another one does not replace what was kept.
    train_into(folder.parent, small_base, review_files, "--seed", 1)
    assert {"lora_adapter", "lora_adapter.1", "lora_adapter.2"} <= set(names(folder.parent))
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before

    train_into(folder.parent, small_base, review_files, "--seed", 2, "--overwrite")
    assert "lora_adapter.3" not in names(folder.parent)


def test_a_change_of_the_new_calibration_leaves_the_kept_one_alone(folder, small_base):
    (folder / WEIGHTS).write_bytes(b"other weights")
    make_small_adapter(folder, small_base)
    kept = folder.parent / "lora_adapter.1"
    assert (kept / WEIGHTS).read_bytes() == b"other weights"
    config = SentimentConfig.load(folder)
    config.temperature = 3.0
    config.save(folder)
    assert '"temperature": 1.0' in (kept / "sentiment_config.json").read_text(encoding="utf-8")


def test_killed_before_the_exchange_nothing_is_lost_and_nothing_kept_twice(folder, small_base, monkeypatch):
    (folder / WEIGHTS).write_bytes(b"other weights")
    replace = atomic_files.replace_folder

    def killed(new, path):
        if path == folder:
            raise KeyboardInterrupt
        replace(new, path)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "replace_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            make_small_adapter(folder, small_base)
    assert weights(folder) == weights(folder.parent / "lora_adapter.1") == b"other weights"
    make_small_adapter(folder, small_base)
    assert names(folder.parent) == ["lora_adapter", "lora_adapter.1"]
    assert weights(folder.parent / "lora_adapter.1") == b"other weights"

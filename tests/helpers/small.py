"""A throwaway base and a few reviews, made in the test process; nothing from outside."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[2]
POSITIVE = [
    "房间很干净，服务热情，下次还来。",
    "书的内容充实，孩子很喜欢。",
    "屏幕清晰，速度快，很满意。",
    "位置好，早餐丰富，推荐。",
]
NEGATIVE = [
    "房间太脏，服务很差，再也不来。",
    "书的印刷模糊，内容空洞，失望。",
    "屏幕有坏点，速度慢，后悔。",
    "位置偏，早餐难吃，不推荐。",
]
PLACES = "北京上海杭州西安成都南京武汉厦门青岛大连"


def small_reviews(count: int = 80) -> list[dict]:
    """`count` different short reviews with balanced labels, of various lengths."""
    rows = []
    for i in range(count):
        sentences = POSITIVE if i % 2 else NEGATIVE
        place = PLACES[2 * (i % 10) : 2 * (i % 10) + 2]
        text = f"{place}第{i}次，" + "".join(sentences[(i + k) % 4] for k in range(1 + i % 3))
        rows.append({"text": text, "label": i % 2})
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make_small_base(folder: Path, pad_token_id: int | None = None) -> Path:
    """A 2-layer Qwen2 with a tokenizer of single bytes; like Qwen2.5-1.5B its config names no pad token."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|endoftext|>": 0} | {byte: i + 1 for i, byte in enumerate(alphabet)}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[])
    config = Qwen2Config(
        vocab_size=len(vocab), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=pad_token_id, eos_token_id=0,
        bos_token_id=None, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_small_adapter(folder: Path, base: Path, labels: tuple[str, ...] = ("负面", "正面"), **settings) -> Path:
    """The adapter folder of a throwaway base that has not been trained: its head is random, B is zero.

    `settings` are fields of `TrainingConfig`.
    """
    import torch

    from configs.lora_config import LoraSettings
    from configs.training_config import TrainingConfig
    from modeling.adapter_folder import SentimentConfig, save_adapter
    from modeling.lora import build_for_training

    torch.manual_seed(0)
    config = TrainingConfig(model_name=str(base), max_length=64, train_file="nowhere.csv", **settings)
    model, tokenizer = build_for_training(config, LoraSettings(), list(labels))
    sentiment = SentimentConfig(
        base_model=str(base), base_revision=None, labels=list(labels), max_length=64, head=config.head,
        prompt_template=config.template_for(list(labels)), label_words=config.words_for(list(labels)),
    )  # fmt: skip
    texts = [row["text"] for row in small_reviews(8)]
    info = {"config": vars(config), "data_fingerprint": {}}
    save_adapter(folder, model, tokenizer, sentiment, texts, info)
    return folder


@contextlib.contextmanager
def kept_handlers():
    """What a script does with signals ends with it: later tests, and the processes they start, know nothing of it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_main(main, *arguments) -> subprocess.CompletedProcess:
    """A script's `main` with these arguments in this process: exit code, output and messages as in `run_script`."""
    from runtime.errors import run_script as run

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["script.py", *map(str, arguments)]),
        mock.patch.dict(os.environ),  # what the script sets ends with it
        kept_handlers(),
    ):
        try:
            run(main)
        except SystemExit as error:
            code = error.code or 0
    said = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err)]
    return subprocess.CompletedProcess(arguments, code, *said)


def ask(folder: Path, *flags) -> subprocess.CompletedProcess:
    """What `inference.py --text … --json` says with the adapter in `folder`."""
    import inference

    return run_main(inference.main, "--model_path", folder, "--text", "房间很干净", "--json", *flags)


def change_json(path: Path, **values) -> None:
    """Set these keys of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def run_script(*arguments, timeout: int = 120, env: dict | None = None, **kwargs) -> subprocess.CompletedProcess:
    """A real command line: `python train.py …` from the repository's root, offline."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1", "COLUMNS": "200"} | (env or {})
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, env=environment, **kwargs
    )


def assert_one_message(result: subprocess.CompletedProcess, *words: str) -> None:
    """A user's mistake: exit code 2, one message with these words, no traceback."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("错误：") == 1, result.stderr
    for word in words:
        assert word in result.stderr, f"{word!r} not in {result.stderr!r}"

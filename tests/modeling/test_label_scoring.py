"""The head that asks the language model for a word: equal to zero-shot before training, and to plain arithmetic."""

import json

import numpy as np
import pytest
import torch
from largest_tensor import LargestVocabularyTensor
from small import assert_one_message, run_script, small_reviews
from small_runs import make_trainer, rows
from transformers import AutoModelForCausalLM, set_seed

from configs.evaluation_config import MetricsConfig
from configs.fields import ConfigError
from configs.lora_config import LoraSettings
from configs.prompt_template import PROMPT_TEMPLATE
from configs.training_config import TrainingConfig
from data.preprocessing import encode_texts
from modeling import label_scoring
from modeling.adapter_folder import SentimentConfig, save_adapter
from modeling.base_model import load_tokenizer
from modeling.batching import pad, predict_logits
from modeling.devices import Device
from modeling.label_scoring import as_label_scorer, label_word_ids
from modeling.lora import build_for_training, load_adapter
from prediction.predictor import SentimentPredictor
from prediction.zero_shot import CONTENT_FREE, ZeroShotPredictor, zero_shot_config
from runtime.errors import UserError
from training.optimization import mean_cross_entropy

TEXTS = [row["text"] for row in small_reviews(24)]
LABELS = ["负面", "正面"]
CPU = Device("cpu", False)


def fresh_model(small_base, labels=LABELS, **settings):
    config = TrainingConfig(model_name=str(small_base), head="label_scoring", **settings)
    set_seed(0)
    return build_for_training(config, LoraSettings(), labels)


def save(folder, small_base, model, tokenizer, labels=LABELS, words=None):
    config = zero_shot_config(str(small_base), labels=labels, label_words=words, max_length=64)
    save_adapter(folder, model, tokenizer, config, TEXTS, {})
    return folder


@pytest.mark.parametrize("merge", [False, True])
def test_a_fresh_adapter_answers_exactly_as_the_base_without_training(small_base, tmp_path, merge):
    adapter = save(tmp_path / "adapter", small_base, *fresh_model(small_base))
    tuned = SentimentPredictor(lora_path=adapter, merge=merge, device=CPU)
    zero_shot = ZeroShotPredictor(zero_shot_config(str(small_base), max_length=64), device=CPU)
    np.testing.assert_array_equal(tuned.predictions(TEXTS).logits, zero_shot.predictions(TEXTS).logits)


def test_scores_do_not_depend_on_padding_or_batch(small_base):
    model, tokenizer = fresh_model(small_base)
    prompts = encode_texts(tokenizer, TEXTS, 64, PROMPT_TEMPLATE)
    expected = predict_logits(model, prompts, tokenizer.pad_token_id)
    for budget in (1, 300, 100_000):
        np.testing.assert_allclose(predict_logits(model, prompts, 0, max_tokens=budget), expected, atol=1e-5)
    batch = pad(prompts[:3], pad_id=7)  # another pad token, and more of it
    wide = {name: torch.nn.functional.pad(value, (0, 24), value=0) for name, value in batch.items()}
    wide["input_ids"][wide["attention_mask"] == 0] = 9
    with torch.no_grad():
        np.testing.assert_allclose(model.eval()(**wide).logits, expected[:3], atol=1e-5)


def test_scores_do_not_depend_on_the_attention_in_use(small_base):
    model, tokenizer = fresh_model(small_base)
    prompts, found = encode_texts(tokenizer, TEXTS, 64, PROMPT_TEMPLATE), {}
    for attention in ("sdpa", "eager"):
        model.get_base_model().set_attn_implementation(attention)
        found[attention] = predict_logits(model, prompts, 0)
    np.testing.assert_allclose(found["eager"], found["sdpa"], atol=1e-5)


def test_permuted_classes_give_permuted_answers(small_base):
    labels, order = ["好评", "差评", "中评"], [2, 0, 1]
    words = ["好", "差", "还行"]
    one = ZeroShotPredictor(zero_shot_config(str(small_base), labels=labels, label_words=words), device=CPU)
    config = zero_shot_config(str(small_base), labels=[labels[i] for i in order], label_words=[words[i] for i in order])
    other = ZeroShotPredictor(config, device=CPU)
    np.testing.assert_allclose(other.predictions(TEXTS).logits, one.predictions(TEXTS).logits[:, order], atol=1e-5)
    answers = zip(one.predict_batch(TEXTS), other.predict_batch(TEXTS), strict=True)
    assert all(a["label"] == b["label"] and a["probabilities"] == pytest.approx(b["probabilities"]) for a, b in answers)


def uniform_scores(small_base, words):
    """Scores of a model that finds every next token equally probable."""
    model = AutoModelForCausalLM.from_pretrained(small_base)
    model.get_output_embeddings().weight.data.zero_()
    scorer = as_label_scorer(model, words)
    ids = torch.tensor([[5, 6, 7]])
    return scorer(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0], np.log(model.config.vocab_size)


def test_length_counts_and_ties_go_to_the_first(small_base):
    """By hand: with V tokens equally probable a word of k tokens has log-probability -k log V."""
    scores, log_v = uniform_scores(small_base, [[3, 4], [5], [6, 7, 8]])
    np.testing.assert_allclose(scores.detach(), [-2 * log_v, -log_v, -3 * log_v], rtol=1e-6)  # the shorter wins
    scores, _ = uniform_scores(small_base, [[3, 4], [3, 5], [9, 4]])
    assert scores.argmax() == 0 and len(set(scores.tolist())) == 1  # equally long: a tie, and the first label


def test_a_word_that_begins_another_can_lose(small_base):
    tokenizer = load_tokenizer(str(small_base))
    short, long, other = label_word_ids(tokenizer, ["好", "好吃", "差"])
    assert [word[-1] for word in (short, long, other)] == [tokenizer.eos_token_id] * 3
    assert long[: len(short) - 1] == short[:-1]
    assert all(tokenizer.eos_token_id not in word for word in label_word_ids(tokenizer, ["好吃", "好看"]))
    model = AutoModelForCausalLM.from_pretrained(small_base)
    scorer = as_label_scorer(model, [short, long])
    ids = torch.tensor([[5, 6, 7]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    optimizer = torch.optim.SGD(scorer.parameters(), lr=0.05)
    for _ in range(60):  # teach it the longer one
        loss = mean_cross_entropy(scorer(**inputs), torch.tensor([1]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert scorer(**inputs).logits.argmax() == 1


@pytest.mark.parametrize("over_vocabulary", [False, True])
def test_losses_and_gradients_are_those_of_the_plain_language_model(small_base, over_vocabulary):
    """`lm` is the usual cross-entropy at the label's tokens; `restricted` a softmax over the words' probabilities."""
    tokenizer = load_tokenizer(str(small_base))
    words, labels = label_word_ids(tokenizer, LABELS), torch.tensor([0, 1, 1])
    prompts = encode_texts(tokenizer, TEXTS[:3], 64, PROMPT_TEMPLATE)

    plain = AutoModelForCausalLM.from_pretrained(small_base)
    scores = torch.stack([torch.stack([word_log_prob(plain, prompt, word) for word in words]) for prompt in prompts])
    chosen = scores if over_vocabulary else scores.log_softmax(dim=1)
    expected = -chosen[torch.arange(3), labels].mean()
    expected.backward()

    scorer = as_label_scorer(AutoModelForCausalLM.from_pretrained(small_base), words).train()
    loss = mean_cross_entropy(scorer(**pad(prompts, 0)), labels, over_vocabulary=over_vocabulary)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for (name, one), (_, other) in zip(scorer.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3, msg=name)


def word_log_prob(model, prompt, word):
    log_probs = model(torch.tensor([prompt + word])).logits[0].log_softmax(dim=-1)  # (T, V)
    return sum(log_probs[len(prompt) - 1 + i, token] for i, token in enumerate(word))


def test_training_never_holds_the_vocabulary_for_every_token(small_base, monkeypatch):
    monkeypatch.setattr(label_scoring, "VOCABULARY_CHUNK", 50)
    model, tokenizer = fresh_model(small_base)
    batch, vocabulary = pad(encode_texts(tokenizer, TEXTS[:4], 64, PROMPT_TEMPLATE), 0), model.config.vocab_size
    contexts = model.base_model.model.label_words.place_of_context
    with LargestVocabularyTensor(50) as pieces, LargestVocabularyTensor(vocabulary) as whole:
        mean_cross_entropy(model.train()(**batch), torch.tensor([0, 1, 0, 1]), over_vocabulary=True).backward()
    assert whole.rows == 0  # the whole vocabulary was never one tensor
    assert 0 < pieces.rows <= max(4 * len(contexts), model.config.hidden_size)


@pytest.mark.parametrize("label_loss", ["restricted", "lm"])
def test_training_moves_lora_alone_and_learns(small_base, tmp_path, label_loss):
    lora = LoraSettings(lora_dropout=0.0, lora_r=16, lora_alpha=32, target_modules=["all-linear"])
    trainer = make_trainer(
        small_base, tmp_path, rows(8), lora, max_steps=40, eval_steps=20, learning_rate=3e-3,
        head="label_scoring", label_loss=label_loss, label_words=["差", "好"],
    )  # fmt: skip
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(before[name], parameter) == ("lora_" not in name), name
    assert trainer.best.score == 1  # on the eight rows that it was trained on


def test_accumulation_equals_the_large_batch(small_base, tmp_path, monkeypatch):
    monkeypatch.setattr("training.trainer.best_device", lambda: CPU)
    found = []
    for batch, accumulation in ((16, 1), (4, 4)):
        trainer = make_trainer(
            small_base, tmp_path / str(batch), num_epochs=1, learning_rate=1e-3, head="label_scoring", label_loss="lm",
            batch_size=batch, gradient_accumulation_steps=accumulation,
        )  # fmt: skip
        trainer.train()
        found.append({name: p for name, p in trainer.model.named_parameters() if p.requires_grad})
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=2e-5, rtol=1e-3)


def test_a_four_bit_base_is_trained_and_keeps_its_vocabulary_whole(small_base, tmp_path):
    trainer = make_trainer(small_base, tmp_path, max_steps=2, head="label_scoring", use_qlora=True)
    trainer.train()
    kinds = {name.rsplit(".", 1)[-1]: type(module).__name__ for name, module in trainer.model.named_modules()}
    assert kinds["lm_head"] == "Linear" and "bit" in kinds["base_layer"]


def test_content_free_answers_are_subtracted(small_base):
    """Zhao et al. 2021 by hand: divide by the mean probabilities after reviews without content."""
    config = zero_shot_config(str(small_base), max_length=64)
    raw = ZeroShotPredictor(config, device=CPU)
    calibrated = ZeroShotPredictor(config, contextual_calibration=True, device=CPU)
    prior = raw.predictions(list(CONTENT_FREE)).probs.mean(axis=0)
    by_hand = raw.predictions(TEXTS).probs / prior
    np.testing.assert_allclose(
        calibrated.predictions(TEXTS).probs, by_hand / by_hand.sum(axis=1, keepdims=True), atol=1e-5
    )
    assert np.abs(calibrated.predictions(TEXTS).probs - raw.predictions(TEXTS).probs).max() > 1e-3


def test_a_label_scoring_adapter_does_not_load_as_a_classifier(small_base, tmp_path):
    adapter = save(tmp_path / "adapter", small_base, *fresh_model(small_base))
    path = adapter / "sentiment_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"head": "classifier"}), encoding="utf-8")
    with pytest.raises(UserError, match="label_scoring 训练的，不能当作 classifier"):
        load_adapter(adapter)
    path.write_text(json.dumps(values | {"label_words": ["好"]}), encoding="utf-8")
    with pytest.raises(UserError, match="label_words"):
        load_adapter(adapter)


def test_a_classifier_does_not_load_as_label_scoring(adapter, tmp_path):
    import shutil

    shutil.copytree(adapter, tmp_path / "copy")
    path = tmp_path / "copy" / "sentiment_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"classifier"', '"label_scoring"'), encoding="utf-8")
    with pytest.raises(UserError, match="classifier 训练的，不能当作 label_scoring"):
        SentimentConfig.load(tmp_path / "copy")


def test_as_many_words_as_labels(small_base):
    with pytest.raises(UserError, match="--label_words 有 3 个"):
        fresh_model(small_base, label_words=["好", "差", "中"])


def test_the_vocabulary_projection_takes_no_lora(small_base):
    config = TrainingConfig(model_name=str(small_base), head="label_scoring")
    with pytest.raises(UserError, match="lm_head"):
        build_for_training(config, LoraSettings(target_modules=["q_proj", "lm_head"]), LABELS)


def test_zero_shot_leaves_the_results_of_an_adapter_alone():
    given = {"zero_shot": True, "model_name": "x", "test_file": "y"}
    assert MetricsConfig(**given).output_dir == "./model_evaluation/outputs/zero_shot"
    assert MetricsConfig(**given, output_dir="mine").output_dir == "mine"
    with pytest.raises(ConfigError, match="--model_path"):
        MetricsConfig(**given, model_path="outputs/other")


@pytest.fixture(scope="module")
def scoring(tmp_path_factory, small_base, review_files):
    """Output folder of one real run with this head, a prompt and words of one's own."""
    output = tmp_path_factory.mktemp("scoring")
    result = run_script(
        "train.py", "--model_name", small_base, *review_files, "--output_dir", output, "--max_length", "64",
        "--head", "label_scoring", "--prompt_template", r"{text}\n总之：", "--label_words", "差,好",
        "--learning_rate", "3e-3", "--num_epochs", "6", "--target_modules", "all-linear", "--lora_r", "16",
        "--lora_alpha", "32", "--lora_dropout", "0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return output / "lora_adapter"


def test_the_adapter_records_head_template_and_words(scoring):
    config = SentimentConfig.load(scoring)
    assert (config.head, config.prompt_template) == ("label_scoring", "{text}\n总之：")
    assert (config.labels, config.label_words, config.format_version) == (LABELS, ["差", "好"], 3)
    peft = json.loads((scoring / "adapter_config.json").read_text(encoding="utf-8"))
    assert peft["task_type"] == "CAUSAL_LM" and not peft["modules_to_save"]


def test_everything_downstream_works_unchanged(scoring, tmp_path):
    result = run_script("model_evaluation/run_full_eval.py", "--model_path", scoring, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    zero_shot = json.loads((tmp_path / "baseline_comparison.json").read_text(encoding="utf-8"))["baseline_model"]
    assert metrics["accuracy"] >= 0.9 and "总之" in zero_shot["note"] and "差、好" in zero_shot["note"]
    assert "report.html" in result.stdout and (tmp_path / "report.html").stat().st_size > 10_000
    answer = run_script(
        "inference.py", "--model_path", scoring, "--interactive", input="房间很干净\nquit\n",
        env={"HOME": str(tmp_path)},
    )  # fmt: skip
    assert answer.returncode == 0 and "%" in answer.stdout


def test_zero_shot_from_the_command_line(small_base, review_files, tmp_path):
    test_file = review_files[review_files.index("--test_file") + 1]
    command = ["eval.py", "--zero_shot", "--model_name", small_base, "--test_file", test_file, "--output_dir", tmp_path]
    result = run_script(*command, "--contextual_calibration")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["n"] == 20 and metrics["seen"] is None and "零样本" in metrics["model_path"]
    again = run_script(*command)  # another question to the model: the kept answers are not used
    assert again.returncode == 0 and "沿用上次的预测 0 条" in again.stdout


def test_mistakes_get_one_message():
    for arguments, words in (
        (["train.py", "--label_words", "好,差"], ["--label_words", "--head label_scoring"]),
        (["train.py", "--head", "label_scoring", "--prompt_template", "评论："], ["--prompt_template", "{text}"]),
        (["train.py", "--head", "label_scoring", "--label_words", "好,好"], ["--label_words"]),
        (["eval.py", "--zero_shot"], ["--model_name", "--dataset"]),
        (["eval.py", "--contextual_calibration"], ["--contextual_calibration", "--zero_shot"]),
        (["eval.py", "--zero_shot", "--model_name", "x", "--test_file", "y", "--labels", "好,好"], ["不止一次"]),
    ):
        assert_one_message(run_script(*arguments), *words)

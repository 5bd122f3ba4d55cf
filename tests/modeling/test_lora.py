"""Merging without PEFT: the same weights as PEFT's own, and PEFT wherever an adapter has more in it."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from small import assert_one_message, run_main, small_reviews
from transformers import AutoModelForCausalLM

import train
from configs.lora_config import LoraSettings
from modeling.adapter_folder import SentimentConfig, save_adapter
from modeling.base_model import load_base, load_headed_base, load_tokenizer
from modeling.devices import Device
from modeling.lora import add_lora, load_adapter, merge_lora
from prediction.predictor import SentimentPredictor
from runtime.errors import UserError

CPU = Device("cpu", False)
TEXTS = [row["text"] for row in small_reviews(12)]


def fresh_base(folder):
    torch.manual_seed(0)
    tokenizer = load_tokenizer(folder)
    return load_base(folder, tokenizer, labels=["a", "b"], quantize=False, dtype=torch.float32, device=CPU)


@pytest.fixture
def base_folder(adapter):
    return SentimentConfig.load(adapter).base_model


@pytest.fixture
def copy(adapter, tmp_path):
    return shutil.copytree(adapter, tmp_path / "adapter")


def peft_weights(folder, base_folder):
    merged = PeftModel.from_pretrained(fresh_base(base_folder), str(folder)).merge_and_unload()
    return dict(merged.named_parameters())


def change(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_same_bits_as_pefts_merge(adapter, base_folder):
    plain, model = fresh_base(base_folder).state_dict(), fresh_base(base_folder)
    assert merge_lora(model, adapter)
    weights, expected = dict(model.named_parameters()), peft_weights(adapter, base_folder)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    moved = {name.split(".")[-2] for name in expected if not torch.equal(weights[name], plain[name])}
    assert moved == {"q_proj", "k_proj", "v_proj", "o_proj", "score"}


def test_another_rank_scaling_and_no_head_of_its_own(copy, base_folder):
    """What a label-scoring adapter looks like: LoRA alone, merged into a language model."""
    path = copy / "adapter_model.safetensors"
    tensors = {name: t[:4] if "lora_A" in name else t[:, :4] for name, t in load_file(path).items() if "lora" in name}
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    change(copy, r=4, lora_alpha=3, modules_to_save=None, task_type="CAUSAL_LM")
    model = fresh_base(base_folder)
    assert merge_lora(model, copy)
    weights, base = dict(model.named_parameters()), fresh_base(base_folder).state_dict()
    name = "model.layers.1.self_attn.v_proj"
    low_rank = tensors[f"base_model.model.{name}.lora_B.weight"] @ tensors[f"base_model.model.{name}.lora_A.weight"]
    torch.testing.assert_close(weights[f"{name}.weight"], base[f"{name}.weight"] + 0.75 * low_rank)
    assert torch.equal(weights["score.weight"], base["score.weight"])


@pytest.mark.parametrize(
    "switch",
    [
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 1}},
        {"peft_type": "IA3"},
        {"init_lora_weights": "pissa"},
        {"not_known_yet": 1},
    ],
    ids=lambda switch: next(iter(switch)),
)
def test_more_than_plain_lora_is_left_to_peft(copy, base_folder, switch):
    change(copy, **switch)
    model = fresh_base(base_folder)
    assert not merge_lora(model, copy)
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in fresh_base(base_folder).state_dict().items())


def test_what_is_left_to_peft_is_merged_by_peft(copy, base_folder):
    change(copy, use_rslora=True)
    model, _, _ = load_adapter(copy, device=CPU)
    expected = peft_weights(copy, base_folder)
    assert all(torch.equal(weight, expected[name]) for name, weight in model.named_parameters())


def test_tensors_that_do_not_fit_change_nothing_and_are_told(copy, base_folder):
    path = copy / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    save_file(tensors | {name: tensors[name][:3].contiguous()}, path)
    model = fresh_base(base_folder)
    assert not merge_lora(model, copy)
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in fresh_base(base_folder).state_dict().items())
    with pytest.raises(UserError, match="装不到基座"):
        load_adapter(copy, device=CPU)


def save_with_embeddings(folder, base_folder, head, lora_of):
    """An adapter whose LoRA on the embeddings moves the answers; `lora_of` puts it beside the base's layers."""
    torch.manual_seed(0)
    labels = ["负面", "正面"]
    words = ["b", "g"] if head == "label_scoring" else None
    tokenizer = load_tokenizer(str(base_folder))
    base = load_headed_base(
        str(base_folder), tokenizer, labels=labels, words=words, quantize=False, dtype=torch.float32, device=CPU
    )
    model = lora_of(base)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    template = "{text}：" if words else None
    sentiment = SentimentConfig(
        base_model=str(base_folder), base_revision=None, labels=labels, max_length=64, head=head,
        label_words=words, prompt_template=template,
    )  # fmt: skip
    save_adapter(folder, model, tokenizer, sentiment, TEXTS, {})
    return folder


def assert_merging_changes_no_answer(folder):
    merged, beside = (SentimentPredictor(lora_path=folder, merge=merge, device=CPU) for merge in (True, False))
    expected = beside.predictions(TEXTS).logits
    torch.testing.assert_close(merged.predictions(TEXTS).logits, expected, atol=1e-4, rtol=0)
    return expected


def test_label_scoring_refuses_lora_on_tied_embeddings(small_base, review_files, tmp_path):
    """Merged, it would change the vocabulary projection as well, which is the same matrix."""
    command = ["--model_name", small_base, *review_files, "--output_dir", tmp_path, "--head", "label_scoring"]
    result = run_main(train.main, *command, "--target_modules", "q_proj,model.embed_tokens")
    assert_one_message(result, "--target_modules", "embed_tokens", "label_scoring")


def test_an_adapter_on_tied_embeddings_from_elsewhere_is_served_as_it_was_trained(small_base, tmp_path):
    def plain_peft(base):
        return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "embed_tokens"]))

    folder = save_with_embeddings(tmp_path / "adapter", small_base, "label_scoring", plain_peft)
    assert_merging_changes_no_answer(folder)


@pytest.mark.parametrize("head", ["classifier", "label_scoring"])
def test_lora_on_embeddings_that_project_nothing_is_merged_rightly(small_base, tmp_path, head):
    """A classifier has no vocabulary projection; with label scoring it must be a matrix of its own."""
    base_folder = small_base
    if head == "label_scoring":
        base_folder = shutil.copytree(small_base, tmp_path / "base")
        model = AutoModelForCausalLM.from_pretrained(small_base, tie_word_embeddings=False)
        model.lm_head.weight.data = model.get_input_embeddings().weight.detach().clone()
        model.save_pretrained(base_folder)
    lora = LoraSettings(target_modules=["q_proj", "embed_tokens"])
    folder = save_with_embeddings(tmp_path / "adapter", base_folder, head, lambda base: add_lora(base, lora, head))
    answers = assert_merging_changes_no_answer(folder)

    # The LoRA beside the embeddings must matter, or the comparison proves nothing.
    path = folder / "adapter_model.safetensors"
    without = {name: 0 * t if "lora_embedding" in name else t for name, t in load_file(path).items()}
    save_file(without, path)
    moved = SentimentPredictor(lora_path=folder, device=CPU).predictions(TEXTS).logits - answers
    assert abs(moved).max() > 0.01

"""Merging without PEFT: the same weights as PEFT's own, and PEFT wherever an adapter has more in it."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from modeling.adapter_folder import SentimentConfig
from modeling.base_model import load_adapter, load_base, load_tokenizer
from modeling.devices import Device
from modeling.lora import merge_lora
from runtime.errors import UserError

CPU = Device("cpu", False)


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

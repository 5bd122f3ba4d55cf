"""Model cards: the README.md of an adapter or of an exported model, as the hubs show it.

    card = adapter_card(sentiment, run_info, pad_id=151643)

At its head, as YAML, stands what the hubs read (https://huggingface.co/docs/hub/model-cards): the base, the data and
the measured figures; below it, for people, the lines that load the model, its figures, its limits and its making. Paths
of this machine are left out: cards are published.
"""

from pathlib import Path
from typing import Any

from configs.training_config import CLASSIFIER
from data.data_loader import HUB_NAMES

SPLIT_NAMES = {"validation": "验证集", "test": "测试集"}
FIGURES = {"accuracy": "准确率", "f1": "F1"}
LIMITS = (
    "- 它在上面这些数据上训练，数字也只说到这类文本；别的领域、别的年代、别的写法会差一些，用之前请拿自己的评论评估。",
    "- 只回答给定的标签：与情感无关的文本也会得到其中一个，不会说“不知道”。把握小的回答请交给人看。",
    "- 比 max_length 长的评论只读前面一段；讽刺、反话、多方面的评论容易错。",
    "- 不要用它对人作决定。基座和数据各有自己的许可，使用前请看。",
)
LIKE_OURS = (
    "评论要先按本仓库 `data/preprocessing.py` 的 `clean_text` 清理（控制字符、连续空白），"
    "`export.py --format merged` 导出的文件夹自己会做"
)


def adapter_card(sentiment, info: dict[str, Any], pad_id: int, measured: dict[str, Any] | None = None) -> str:
    """The README.md of an adapter folder; `sentiment` is its `SentimentConfig`, `info` its run_info.json.

    `pad_id` is the tokenizer's. `measured` as for `card`.
    """
    lines = _classifier_lines(sentiment, pad_id) if sentiment.head == CLASSIFIER else _label_word_lines(sentiment)
    notes = [LIKE_OURS + "。"]
    if sentiment.temperature != 1.0:
        notes.append(f"logits 要除以温度 {sentiment.temperature:.6g}，概率才是校准过的；上面的几行已经除了。")
    if sentiment.quantization:
        notes.append("它训练时基座存为 4 比特（NF4）；上面的几行把基座按 32 位载入，回答会略有不同。")
    if not is_hub_name(sentiment.base_model):
        notes.append(
            "它的基座不在 Hub 上：别的机器要先有这个基座，再改 adapter_config.json 的 base_model_name_or_path。"
        )
    return card(sentiment, info, library="peft", code=lines, notes=notes, measured=measured)


def _classifier_lines(sentiment, pad_id: int) -> str:
    names = dict(enumerate(sentiment.labels))
    ids = {name: index for index, name in names.items()}
    return f"""\
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer
folder = "."  # 这个文件夹，或它在 Hub 上的名字
tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
model = AutoPeftModelForSequenceClassification.from_pretrained(
    folder, num_labels={len(names)}, id2label={names}, label2id={ids}, pad_token_id={pad_id}, dtype="float32").eval()
batch = tokenizer(["酒店很干净"], truncation=True, max_length={sentiment.max_length}, padding=True, return_tensors="pt")
print((model(**batch).logits / {sentiment.temperature!r}).softmax(-1).tolist(), model.config.id2label)"""


def _label_word_lines(sentiment) -> str:
    """Lines for one text; words of several tokens are answered by this repository alone."""
    return f"""\
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
folder = "."  # 这个文件夹，或它在 Hub 上的名字
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
before, after = {sentiment.prompt_template!r}.split("{{text}}")  # 三段分别变成 token
review = tokenizer("酒店很干净", split_special_tokens=True)["input_ids"][:{sentiment.max_length}]
ids = tokenizer(before)["input_ids"] + review + tokenizer(after)["input_ids"]
words = [tokenizer(word)["input_ids"][0] for word in {sentiment.label_words}]  # 只对一个 token 的标签词成立
logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
print((logits[words] / {sentiment.temperature!r}).softmax(-1).tolist(), {sentiment.labels})"""


def card(
    sentiment,
    info: dict[str, Any],
    *,
    library: str,
    code: str,
    notes: list[str],
    measured: dict[str, Any] | None = None,
    more: str = "",
) -> str:
    """A card: YAML for the hubs, then the `code` that loads the model, `notes`, figures, limits, origin.

    `measured` maps a title such as 测试集 to metrics (n, accuracy, f1, intervals); without it the figures of the
    training run are shown. `more` stands before the limits.
    """
    settings = info.get("config", {})
    if measured is None:
        measured = {SPLIT_NAMES[name]: metrics for name, metrics in (info.get("metrics") or {}).items() if metrics}
    data = _dataset_name(settings)
    base = sentiment.base_model if is_hub_name(sentiment.base_model) else Path(sentiment.base_model).name
    figures = [_figure_line(title, metrics) for title, metrics in measured.items()]
    parts = [
        f"---\n{_metadata(sentiment, settings, library, measured)}\n---\n",
        f"# 中文情感分类：{base} + LoRA\n",
        f"标签：{'、'.join(sentiment.labels)}；训练数据：{data}；一条评论最多读 {sentiment.max_length} 个 token。\n",
        f"## 使用\n\n```python\n{code}\n```\n",
        "\n".join(f"- {note}" for note in notes) + "\n",
        "## 有多准\n",
        "\n".join(figures) + "\n" if figures else "还没有评估。\n",
        more,
        "## 局限\n\n" + "\n".join(LIMITS) + "\n",
        f"## 怎样得到的\n\n{_origin(sentiment, info, settings)}\n",
    ]
    return "\n".join(part for part in parts if part)


def is_hub_name(name: str) -> bool:
    """True for `ORG/NAME` that is no folder here."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).is_dir()


def _dataset_name(settings: dict[str, Any]) -> str:
    return "自己的文件" if settings.get("train_file") else settings.get("dataset", "ChnSentiCorp")


def _metadata(sentiment, settings: dict[str, Any], library: str, measured: dict[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data = _dataset_name(settings)
    hub_data = HUB_NAMES.get(data, data)
    results = []
    for title, metrics in measured.items():
        for key, name in FIGURES.items():
            low, high = (metrics.get("intervals") or {}).get(key) or (None, None)
            interval = "" if low is None else f"，95% 区间 {low:.4f}–{high:.4f}"
            results.append(
                EvalResult(
                    task_type="text-classification", dataset_type=hub_data, dataset_name=f"{data} {title}",
                    dataset_split=title,
                    metric_type=key, metric_name=f"{name}（{metrics['n']:,} 条{interval}）",
                    metric_value=round(metrics[key], 4),
                )
            )  # fmt: skip
    facts: dict[str, Any] = {"tags": ["sentiment-analysis", "chinese", "lora"], "metrics": ["accuracy", "f1"]}
    if is_hub_name(sentiment.base_model):
        facts["base_model"] = sentiment.base_model
        facts["base_model_relation"] = "adapter" if library == "peft" else "finetune"
    if is_hub_name(hub_data):
        facts["datasets"] = [hub_data]
    if results:
        facts |= {"eval_results": results, "model_name": "chinese-sentiment-lora"}
    return ModelCardData(language="zh", library_name=library, pipeline_tag="text-classification", **facts).to_yaml()


def _figure_line(title: str, metrics: dict[str, Any]) -> str:
    low, high = (metrics.get("intervals") or {}).get("accuracy") or (None, None)
    interval = "" if low is None else f"（95% 区间 {low:.1%} – {high:.1%}）"
    return f"- {title}（{metrics['n']:,} 条）：准确率 {metrics['accuracy']:.1%}{interval}，F1 {metrics['f1']:.3f}"


def _origin(sentiment, info: dict[str, Any], settings: dict[str, Any]) -> str:
    versions = info.get("versions", {})
    names = ("lora_r", "lora_alpha", "target_modules", "num_epochs", "max_steps", "batch_size", "learning_rate", "seed")
    shown = [f"{name} {settings[name]}" for name in names if settings.get(name) is not None]
    packages = [f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if versions.get(name)]
    kind = "QLoRA（NF4）" if sentiment.quantization else "LoRA"
    lines = [f"{kind}，头 {sentiment.head}；{'，'.join(shown)}。"]
    if sentiment.prompt_template:
        lines.append(f"提示词 {sentiment.prompt_template!r}，标签词 {'、'.join(sentiment.label_words)}。")
    if packages:
        lines.append(f"{'，'.join(packages)}；{info.get('time', '')[:10]}。")
    return "\n".join(lines)

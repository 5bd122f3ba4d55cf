"""The report of an export: the table in the terminal, and the model card of the exported folder."""

import unicodedata
from typing import Any

from configs.training_config import LABEL_SCORING
from deployment.exports.answer_check import PRECISE, largest_difference
from modeling.model_card import card

LIBRARIES = {"merged": "transformers", "onnx": "onnx", "openvino": "openvino"}
MERGED_LINES = """\
from transformers import pipeline
classify = pipeline("text-classification", model=".", dtype="float32")  # "."：这个文件夹，或它在 Hub 上的名字
print(classify(["酒店很干净", "屏幕有坏点"], truncation=True, top_k=None))"""
GRAPH_LINES = """\
# 不需要 torch；在这个文件夹里，pip install tokenizers numpy {library}
from predict import LABELS, probabilities
print(LABELS, probabilities(["酒店很干净", "屏幕有坏点"]))"""


def describe(report: dict[str, Any]) -> str:
    """Differences, accuracy, speed and size, at most 80 columns wide."""
    rows, hostile, accuracy = report["rows"], report["hostile"], report["accuracy"]
    speed = report["texts_per_second"]
    kind = report["format"] + ("，8 位权重" if report["int8"] else "")
    worst = max(hostile["by_text"], key=hostile["by_text"].__getitem__)
    lines = [
        ("", "适配器", f"导出的（{kind}）"),
        ("验证集准确率", _share(accuracy["before"]), _share(accuracy["after"])),
        ("每秒条数", f"{speed['before']:,.0f}", f"{speed['after']:,.0f}"),
        ("概率最多差", "", f"{rows['largest_difference']:.2g}（平均 {rows['mean_difference']:.2g}）"),
        ("标签变了", "", f"{rows['labels_changed']:,} / {report['n']:,} 条"),
        ("特殊文本最多差", "", f"{hostile['largest_difference']:.2g}（{worst}）"),
        ("大小", "", f"{report['megabytes']:,.1f} MB"),
    ]
    text = "\n".join(f"{_padded(title, 16)}{_padded(before, 28)}{after}" for title, before, after in lines)
    if four_bit := report["four_bit_base"]:
        text += (
            f"\n注意：适配器训练时基座存为 4 比特，导出的并进了完整的基座，二者不相同：\n"
            f"概率最多差 {four_bit['largest_difference']:.2g}，标签变了 {four_bit['labels_changed']:,} 条。"
            "上面的“适配器”也是在完整的基座上算的。"
        )
    return text


def export_card(
    sentiment, info: dict[str, Any], report: dict[str, Any], longest: int, measured: dict[str, Any] | None
) -> str:
    """The README.md of an exported folder; arguments as for `modeling.model_card.card`.

    `longest` is the number of tokens that the model reads, prompt included.
    """
    kind = report["format"]
    library = LIBRARIES[kind]
    code = MERGED_LINES if kind == "merged" else GRAPH_LINES.format(library="onnxruntime" if kind == "onnx" else kind)
    notes = [
        "`truncation=True` 不能省：比 max_length 长的评论整条读入，答案会不同。" if kind == "merged" else
        "这几行同本文件夹的 `predict.py`，截断已在 tokenizer.json 里。",
        "清理文本（控制字符、空白、零宽字符）在分词器里；校准的温度已除进分类层，softmax 就是校准过的概率。",
        "空的评论没有意义，请自己先挡住。",
    ]  # fmt: skip
    if sentiment.head == LABEL_SCORING:
        notes.append(f"提示词 {sentiment.prompt_template!r} 由分词器加在评论前后，不要自己再加。")
    if kind == "merged":
        notes.append(
            f"vLLM：`vllm serve . --runner pooling --convert classify --dtype float32 --max-model-len {longest}`，"
            "每个请求写 `truncate_prompt_tokens: -1`（太长的评论截到这个长度；不写则被拒绝，HTTP 400）。"
        )
    if sentiment.thresholds:
        pairs = "，".join(f"{target} → {value:.4f}" for target, value in sorted(sentiment.thresholds.items()))
        notes.append(
            f"精确率 → 把握的阈值：{pairs}（也在 config.json 的 sentiment.thresholds）。把握低于它的请交给人看。"
        )
    return card(sentiment, info, library=library, code=code, notes=notes, measured=measured, more=_check(report))


def _check(report: dict[str, Any]) -> str:
    rows, accuracy, hostile = report["rows"], report["accuracy"], report["hostile"]["by_text"]
    lines = [
        "## 与适配器的答案相同吗\n",
        f"导出时在 {report['n']:,} 条验证集评论（{report['data']}）和 {len(hostile)} 条特殊文本上核对："
        f"概率最多差 {largest_difference(report):.2g}，标签变了 {rows['labels_changed']:,} 条，"
        f"准确率 {accuracy['before']['accuracy']:.2%} → {accuracy['after']['accuracy']:.2%}。",
    ]
    if report["int8"]:
        lines.append("权重存为 8 位整数，答案因此略变；阈值是在没有压缩的模型上选的。")
    else:
        lines.append(f"（允许的差是 {PRECISE[report['format']]:g}，超过就不会写出。）")
    if report["four_bit_base"]:
        four_bit = report["four_bit_base"]
        lines.append(
            "适配器训练时基座存为 4 比特，这里并进了完整的基座，二者不相同："
            f"概率最多差 {four_bit['largest_difference']:.2g}，标签变了 {four_bit['labels_changed']:,} 条。"
        )
    return "\n".join(lines) + "\n"


def _share(measured: dict[str, Any]) -> str:
    low, high = measured["interval"]
    return f"{measured['accuracy']:.2%}（{low:.1%}–{high:.1%}）"


def _padded(cell: str, width: int) -> str:
    """`cell` with blanks behind it; a Chinese character takes two columns."""
    columns = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in cell)
    return cell + " " * max(0, width - columns)

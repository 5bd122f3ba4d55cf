"""用这个文件夹预测，不需要 torch：tokenizers、numpy，和 onnxruntime 或 openvino。

python predict.py 酒店很干净 屏幕有坏点
"""

import json
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent
CONFIG = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
LABELS = list(CONFIG["id2label"].values())
tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))  # 清理、提示词、截断都在里面
tokenizer.encode_special_tokens = True  # 评论里的 <|endoftext|> 只是几个字符

if (FOLDER / "model.onnx").is_file():
    import onnxruntime

    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    run = lambda inputs: session.run(None, inputs)[0]  # noqa: E731
else:
    sys.modules.setdefault("openvino_telemetry", None)  # 否则 import openvino 会向 Google Analytics 报告
    import openvino

    # 去掉 f32 这一项，有 bf16 的 CPU 上快几倍，概率约差 0.01。
    compiled = openvino.compile_model(FOLDER / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    run = lambda inputs: compiled(inputs)[0]  # noqa: E731


def probabilities(texts):
    """每条评论对各个标签的概率，(N, C)；标签的次序是 LABELS。"""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    ids = np.full((len(rows), max(map(len, rows))), CONFIG["pad_token_id"], dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    logits = run({"input_ids": ids, "attention_mask": mask})
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    for text, row in zip(sys.argv[1:], probabilities(sys.argv[1:]), strict=True):
        print(LABELS[row.argmax()], f"{row.max():.1%}", text)

"""The one way to a trained model, whatever its folder holds: an adapter, a merged model, an ONNX or an OpenVINO graph.

model, tokenizer, sentiment = load_model("outputs/lora_adapter")
logits = predict_logits(model, rows, tokenizer.pad_token_id)
"""

from pathlib import Path

from tokenizers import normalizers

from modeling.adapter_folder import ADAPTER, MERGED, MODEL_FILES, ONNX, SentimentConfig, model_kind, require_model
from modeling.base_model import load_merged, load_tokenizer
from modeling.devices import Device, best_device
from modeling.engines import OnnxEngine, OpenVinoEngine
from modeling.lora import load_adapter
from runtime.errors import UserError


def load_model(
    folder: str | Path,
    base_model_name: str | None = None,
    *,
    merge: bool = True,
    quantize: bool = True,
    device: Device | None = None,
):
    """(what `predict_logits` takes, tokenizer, `SentimentConfig`); the options are those of `load_adapter`.

    `base_model_name` with an exported model, which holds all its weights, is a `UserError`.
    """
    folder = require_model(folder)
    kind = model_kind(folder)
    if kind == ADAPTER:
        return load_adapter(folder, base_model_name, merge=merge, quantize=quantize, device=device)
    if base_model_name:
        raise UserError(f"--base_model_name：{folder} 是导出的模型（{kind}），自己带着全部权重，不能换基座")
    sentiment = SentimentConfig.load(folder)
    tokenizer = load_tokenizer(str(folder))
    # An exported tokenizer cleans what it is given and sees no special tokens in it. Texts are cleaned before they come
    # here; of a prompt the line breaks and special tokens count.
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.split_special_tokens = False
    if kind == MERGED:
        model = load_merged(
            str(folder), tokenizer, labels=sentiment.labels, max_length=sentiment.max_length,
            device=device or best_device(),
        )  # fmt: skip
    else:
        engine = OnnxEngine if kind == ONNX else OpenVinoEngine
        model = engine(folder / MODEL_FILES[kind][0])
        if model.classes != len(sentiment.labels):
            raise UserError(
                f"{folder} 的模型有 {model.classes} 类，标签却有 {len(sentiment.labels)} 个：文件不是一起导出的"
            )
    return model, tokenizer, sentiment

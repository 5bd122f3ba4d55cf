"""Engines compute the logits of a batch of token ids: torch (an adapter, a merged model), onnxruntime, OpenVINO.

    engine = OnnxEngine(Path("exported/model.onnx"))
    predict_logits(engine, rows, pad_id)  # as for a torch model

An engine has `logits`: (B, T) `input_ids` and `attention_mask`, int64 tensors padded on the right, to (B, C) float32.
Cutting into batches by length, halving them where memory is short, and putting the answers in order is done in front of
each of them by `modeling.batching.predict_logits`.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling.devices import Device
from runtime.errors import UserError, first_line

INPUTS = ("input_ids", "attention_mask")
EXTRA = "pip install -r requirements-deploy.txt"


class TorchEngine:
    """A torch model, in the precision of its weights: a 16-bit one under bf16 autocast, any other as it is."""

    def __init__(self, model):
        parameter = next(model.parameters())
        self.model = model
        self.device = Device(parameter.device.type, parameter.dtype == torch.bfloat16)
        self.kind = self.device.kind
        self.classes = model.config.num_labels

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> np.ndarray:
        where = next(self.model.parameters()).device
        inputs = {"input_ids": input_ids.to(where), "attention_mask": attention_mask.to(where)}
        with torch.inference_mode(), self.device.autocast():
            return self.model(**inputs).logits.float().cpu().numpy()


class GraphEngine:
    """An exported graph on the CPU: no torch model, whatever computes it."""

    kind = "cpu"
    classes: int
    name: str  # of the library and its version, for those who must know whether answers were computed alike

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> np.ndarray:
        raise NotImplementedError


class OnnxEngine(GraphEngine):
    """model.onnx in onnxruntime."""

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{path.parent} 要用 onnxruntime 计算，还没有装它：{EXTRA}") from None
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # its kinds are made in C++ and share no class
            raise _unreadable(path, error) from None
        self.classes = self.session.get_outputs()[0].shape[-1]
        self.name = f"onnxruntime {onnxruntime.__version__}"

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> np.ndarray:
        inputs = zip(INPUTS, (input_ids.numpy(), attention_mask.numpy()), strict=True)
        return self.session.run(None, dict(inputs))[0]


class OpenVinoEngine(GraphEngine):
    """openvino_model.xml in OpenVINO, in float32: left to itself it computes in bf16 where the CPU can."""

    def __init__(self, path: Path):
        try:
            openvino = import_openvino()
        except ImportError:
            raise UserError(f"{path.parent} 要用 OpenVINO 计算，还没有装它：{EXTRA}") from None
        try:
            self.compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise _unreadable(path, error) from None
        self.classes = self.compiled.output(0).partial_shape[-1].get_length()
        self.name = f"openvino {openvino.__version__}"

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> np.ndarray:
        inputs = zip(INPUTS, (input_ids.numpy(), attention_mask.numpy()), strict=True)
        return self.compiled(dict(inputs))[0].copy()  # the array is the model's own, which the next batch writes into


def import_openvino() -> Any:
    """The package, without its reports: at its import and at each conversion it calls Google Analytics, unasked.

    It does without the package that sends them, which therefore counts as not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} 读不出来：文件损坏或不完整，请重新导出（{first_line(error)}）")

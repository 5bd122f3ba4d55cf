"""A model as a graph that needs no torch: ONNX for onnxruntime, or OpenVINO's own; 32-bit floats or 8-bit weights.

    write_onnx(Path("exported"), classifier, int8=True)
    write_openvino(Path("exported"), classifier, int8=False)

Inputs `input_ids` and `attention_mask` (B, T) int64, padded on the right, both dimensions free; output `logits` (B, C).
File names are those that optimum looks for.
"""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from modeling.adapter_folder import MODEL_FILES, ONNX, OPENVINO
from modeling.engines import INPUTS, import_openvino

PROTOBUF_LIMIT_BYTES = 2**31
EXAMPLE = Path(__file__).parent / "examples" / "predict.py"


class LastTokenClassifier(nn.Module):
    """The classifier without its search for the padding: a row ends where its attention mask does."""

    def __init__(self, classifier):
        super().__init__()
        self.decoder, self.score = classifier.get_decoder(), classifier.score

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.decoder(input_ids, attention_mask, use_cache=False).last_hidden_state  # (B, T, D)
        last = attention_mask.sum(dim=1) - 1  # (B,)
        return self.score(hidden[torch.arange(input_ids.shape[0]), last])  # (B, C)


def write_onnx(folder: Path, classifier, int8: bool) -> None:
    """model.onnx, and model.onnx.data beside it where it would be too large for one file."""
    target = folder / MODEL_FILES[ONNX][0]
    if not int8:
        _trace(target, classifier)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        whole = Path(temporary) / "model.onnx"
        large = _trace(whole, classifier)
        with quiet():  # about an optimisation of the graph that torch's exporter has done
            quantize_dynamic(whole, target, weight_type=QuantType.QInt8, use_external_data_format=large)


def write_openvino(folder: Path, classifier, int8: bool) -> None:
    """openvino_model.xml and .bin."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        _trace(Path(temporary) / "model.onnx", classifier)
        model = openvino.convert_model(Path(temporary) / "model.onnx")
        if int8:
            import nncf

            model = nncf.compress_weights(model)
        openvino.save_model(model, folder / MODEL_FILES[OPENVINO][0], compress_to_fp16=False)


def write_example(folder: Path) -> None:
    """predict.py: the few lines that answer with this folder alone."""
    shutil.copyfile(EXAMPLE, folder / "predict.py")


def _trace(path: Path, classifier) -> bool:
    """Write the graph in float32; True where its weights lie in a second file."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in classifier.parameters())
    large = weights > PROTOBUF_LIMIT_BYTES * 0.9
    # Two tensors: one tensor in both places would be taken for one input.
    example = (torch.zeros(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    module = LastTokenClassifier(classifier).eval()
    with quiet():  # about torch's own insides, and names of axes that both inputs share
        torch.onnx.export(
            module, example, path, dynamo=True, external_data=large, verbose=False,
            input_names=list(INPUTS), output_names=["logits"], dynamic_shapes=dict.fromkeys(INPUTS, free),
        )  # fmt: skip
    return large


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)

"""The export itself: which rows to check with, the reference answers, the folder, the check, the card.

    export(ExportConfig(format="onnx"))

A folder that does not answer as the adapter does is not written.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.export_config import ExportConfig
from configs.training_config import DataConfig
from data.data_loader import load_splits
from data.dataset import Rows, stratified_sample
from data.sources.review_files import read_labelled_file
from deployment.exports.answer_check import (
    HOSTILE_TEXTS,
    PRECISE,
    ask_in_batches,
    compare,
    example_client,
    largest_difference,
    pipeline_client,
    timed,
)
from deployment.exports.export_report import describe, export_card
from deployment.exports.graph_folder import write_example, write_onnx, write_openvino
from deployment.exports.hub_upload import push, require_tokens
from deployment.exports.merged_folder import as_classifier, require_exportable, write_settings, write_weights
from modeling.adapter_folder import RUN_INFO, SentimentConfig, read_object, require_adapter
from modeling.devices import Device, best_device
from modeling.fingerprint import model_fingerprint
from modeling.model_card import SPLIT_NAMES, adapter_card
from prediction.prediction_set import softmax
from prediction.predictor import SentimentPredictor
from prediction.training_data import training_splits
from runtime.atomic_files import atomic_folder, write_json
from runtime.errors import UserError
from runtime.run_info import environment

REPORT = "export_report.json"


def export(config: ExportConfig) -> None:
    """Write the folder, say how it answers, and publish it if asked."""
    source = require_adapter(config.model_path)
    output = Path(config.output_dir)
    require_free(output)
    require_tokens(config.push_to_hub, config.push_to_modelscope)
    measured = evaluation_figures(config)
    if config.format == "adapter":
        copy_adapter(source, output, measured)
        print(f"适配器和新写的模型卡在 {output}")
    else:
        report = export_model(config, source, output, measured)
        print(describe(report))
        print(f"\n导出的模型在 {output}；怎样用它见其中的 README.md")
    push(output, config.push_to_hub, config.push_to_modelscope)


def require_free(output: Path) -> None:
    """A `UserError` unless the folder is missing, empty, or an earlier export: it will be replaced as a whole."""
    if output.is_dir() and any(output.iterdir()) and not (output / REPORT).is_file():
        raise UserError(f"--output_dir：{output} 里已有别的文件（没有 {REPORT}，不是导出的），不覆盖；请换一个文件夹")


def export_model(config: ExportConfig, source: Path, output: Path, measured: dict[str, Any] | None) -> dict[str, Any]:
    """Write the exported folder, or nothing where its answers are not the adapter's; returns the report."""
    # The adapter's own answers, in float32, so that any difference is the export's.
    sentiment = SentimentConfig.load(source)
    rows = validation_rows(config, sentiment.labels)
    texts = [*rows.texts, *HOSTILE_TEXTS.values()]
    device = Device(best_device().kind, bf16=False)
    predictor = SentimentPredictor(config.base_model_name, source, quantize=False, device=device)
    require_exportable(predictor)
    reference, seconds_before = timed(partial(reference_answers, predictor, texts))
    four_bit = four_bit_difference(config, source, rows, reference) if sentiment.quantization else None

    with atomic_folder(output) as folder:
        # The folder without its card.
        classifier = as_classifier(predictor)
        del predictor
        write_settings(folder, classifier, source)
        if config.format == "merged":
            write_weights(folder, classifier)
        else:
            write = write_onnx if config.format == "onnx" else write_openvino
            write(folder, classifier, config.int8)
            write_example(folder)
        del classifier

        # The answers that its clients will get.
        client = pipeline_client(folder, device.kind) if config.format == "merged" else example_client(folder)
        found, seconds_after = timed(partial(ask_in_batches, client, texts, len(sentiment.labels)))
        report: dict[str, Any] = {
            "format": config.format,
            "int8": config.int8,
            "model_path": source.name,
            "model_fingerprint": model_fingerprint(source, config.base_model_name),
            "data": data_source(config, source),
            **compare(rows, reference, found),
            "four_bit_base": four_bit,
            "texts_per_second": {"before": len(texts) / seconds_before, "after": len(texts) / seconds_after},
            "megabytes": sum(path.stat().st_size for path in folder.rglob("*")) / 2**20,
            "environment": environment(),
        }
        require_equal(config, report)
        write_json(folder / REPORT, report)
        info = read_object(source / RUN_INFO) if (source / RUN_INFO).is_file() else {}
        longest = read_object(folder / "tokenizer_config.json")["model_max_length"]
        card = export_card(sentiment, info, report, longest, measured)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return report


def validation_rows(config: ExportConfig, labels: list[str]) -> Rows:
    """The labelled rows to compare the answers on: a file's, a data set's, or those of the adapter's own training."""
    if config.validation_file:
        columns = (config.text_column, config.label_column)
        rows = read_labelled_file(Path(config.validation_file), *columns, labels, config.encoding)
    elif config.dataset:
        named = DataConfig(
            dataset=config.dataset, labels=labels, text_column=config.text_column, label_column=config.label_column
        )
        rows = load_splits(named)["validation"]
    else:
        rows = training_splits(config.model_path)["validation"]
    return rows if config.max_samples is None else stratified_sample(rows, config.max_samples, seed=42)


def data_source(config: ExportConfig, source: Path) -> str:
    """The rows' origin as the report names it."""
    if config.validation_file:
        return Path(config.validation_file).name
    if config.dataset:
        return config.dataset
    settings = read_object(source / RUN_INFO)["config"]
    return Path(settings["train_file"]).name if settings.get("train_file") else settings.get("dataset", "")


def reference_answers(predictor: SentimentPredictor, texts: list[str]) -> np.ndarray:
    """The probabilities (N, C) that the adapter gives."""
    return softmax(predictor.predictions(texts, progress="适配器").logits, predictor.config.temperature)


def four_bit_difference(config: ExportConfig, source: Path, rows: Rows, reference: np.ndarray) -> dict[str, Any]:
    """How far the answers on the 4-bit base, which the adapter was trained on, are from those on the whole one."""
    answers = reference_answers(SentimentPredictor(config.base_model_name, source), rows.texts)
    whole = reference[: len(rows)]
    return {
        "largest_difference": float(np.abs(answers - whole).max()),
        "labels_changed": int((answers.argmax(axis=1) != whole.argmax(axis=1)).sum()),
    }


def require_equal(config: ExportConfig, report: dict[str, Any]) -> None:
    """A `UserError` where the answers differ by more than rounding, or 8-bit weights cost more than they may."""
    difference, loss = largest_difference(report), report["accuracy_loss_points"]
    if config.int8:
        if loss > config.max_accuracy_loss:
            raise UserError(
                f"--int8：验证集准确率降了 {loss:.2f} 个百分点（{report['rows']['labels_changed']:,} 条标签变了，"
                f"概率最多差 {difference:.3f}），超过 --max_accuracy_loss {config.max_accuracy_loss}；没有写出。"
                "不加 --int8 则答案不变"
            )
        return
    if difference > PRECISE[config.format]:
        by_text = report["hostile"]["by_text"]
        worst = max(by_text, key=by_text.__getitem__)
        where = f"特殊文本“{worst}”" if by_text[worst] >= difference else "验证集"
        raise UserError(
            f"导出的模型与适配器的答案不同：概率最多差 {difference:.2g}（{where}），"
            f"应不超过 {PRECISE[config.format]:g}；没有写出"
        )


def copy_adapter(source: Path, output: Path, measured: dict[str, Any] | None) -> None:
    """The adapter folder with a fresh card, for PEFT on this machine and, with a base of the hub, anywhere."""
    from modeling.base_model import find_model, load_tokenizer

    sentiment = SentimentConfig.load(source)
    info = read_object(source / RUN_INFO) if (source / RUN_INFO).is_file() else {}
    base, commit = find_model(sentiment.base_model, sentiment.base_revision)
    with atomic_folder(output) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        # Adapters of earlier versions may name their base by a path that is found from one folder alone.
        path = folder / "adapter_config.json"
        place = sentiment.base_model if commit else str(Path(base).resolve())
        write_json(path, read_object(path) | {"base_model_name_or_path": place, "revision": commit})
        card = adapter_card(sentiment, info, load_tokenizer(str(source)).pad_token_id, measured)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_json(folder / REPORT, {"format": "adapter", "model_path": source.name, "environment": environment()})


def evaluation_figures(config: ExportConfig) -> dict[str, Any] | None:
    """Title -> metrics of an evaluation of just this adapter, if its result folder has one; unseen rows stand apart."""
    path = Path(config.evaluation_dir) / "metrics.json"
    if not path.is_file():
        return None
    found = read_object(path)
    if found.get("model_fingerprint") != model_fingerprint(config.model_path, config.base_model_name):
        return None
    title = SPLIT_NAMES.get(found["data"]["split"], found["data"]["split"])
    measured = {title: found}
    if found.get("unseen"):
        measured[f"{title}里训练中没见过的"] = found["unseen"]
    return measured

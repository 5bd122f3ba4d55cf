"""Which rows an evaluation looks at: those of the adapter's own run, a data set, or a file.

rows = evaluation_rows(EvaluationConfig(split="test"), labels=["负面", "正面"])
"""

from pathlib import Path

from configs.evaluation_config import EvaluationConfig
from configs.training_config import DataConfig
from data.data_loader import load_splits
from data.dataset import Rows, stratified_sample
from data.sources.review_files import read_labelled_file
from modeling.adapter_folder import read_run_info
from runtime.errors import UserError


def evaluation_rows(config: EvaluationConfig, labels: list[str]) -> Rows:
    """The rows to evaluate on, cut to `max_samples` if asked; their label ids are positions in `labels`."""
    if config.test_file:
        rows = read_labelled_file(Path(config.test_file), config.text_column, config.label_column, labels)
    else:
        splits = evaluation_splits(config, labels)
        if config.split not in splits:
            raise UserError(f"数据里没有 {config.split} 部分（有 {'、'.join(splits)}）；用 --split 或 --test_file 指定")
        rows = splits[config.split]
    return rows if config.max_samples is None else stratified_sample(rows, config.max_samples, config.seed)


def evaluation_splits(config: EvaluationConfig, labels: list[str]) -> dict[str, Rows]:
    """All splits of `--dataset`, or else of the data that the adapter was trained on."""
    if config.dataset:
        columns = {"text_column": config.text_column, "label_column": config.label_column}
        return load_splits(DataConfig(dataset=config.dataset, labels=labels, **columns))
    return training_splits(config.model_path)


def training_splits(model_path: str) -> dict[str, Rows]:
    """The splits that the adapter was trained with; a `UserError` if the data has changed since."""
    info = read_run_info(model_path)
    names = DataConfig.__dataclass_fields__
    splits = load_splits(DataConfig(**{name: value for name, value in info["config"].items() if name in names}))
    changed = [name for name, rows in splits.items() if rows.fingerprint() != info["data_fingerprint"].get(name)]
    if changed:
        raise UserError(
            f"训练 {model_path} 时的数据已经变了（{'、'.join(changed)} 部分不同）；"
            "用 --dataset 或 --test_file 指定要评估的数据"
        )
    return splits

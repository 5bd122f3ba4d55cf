"""The data that an adapter was trained on, read again as its own record says."""

from configs.training_config import DataConfig
from data.data_loader import load_splits
from data.dataset import Rows
from modeling.adapter_folder import SentimentConfig, read_run_info
from runtime.errors import UserError


def training_splits(model_path: str) -> dict[str, Rows]:
    """The splits that the adapter was trained with; a `UserError` if the data has changed since."""
    info = read_run_info(model_path)
    fields = DataConfig.__dataclass_fields__
    settings = {name: value for name, value in info["config"].items() if name in fields}
    # In the adapter's own order: an earlier version may have found the labels in another one than this does.
    splits = load_splits(DataConfig(**settings | {"labels": SentimentConfig.load(model_path).labels}))
    changed = [name for name, rows in splits.items() if rows.fingerprint() != info["data_fingerprint"].get(name)]
    if changed:
        raise UserError(
            f"训练 {model_path} 时的数据已经变了（{'、'.join(changed)} 部分不同）；"
            "用 --dataset 或 --test_file 指定要评估的数据"
        )
    return splits

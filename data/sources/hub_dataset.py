"""Reviews of a data set of the hub, or of a folder that looks like one.

The only `load_dataset` call of the repository stands here.
"""

from collections.abc import Iterator
from pathlib import Path

from configs.evaluation_config import SPLITS
from data.dataset import RawReview
from data.sources.dataset_files import local_files
from runtime.errors import UserError, first_line
from runtime.hub_download import DATASET_FILES, fetch

WAY_OUT = "--train_file 自己的文件，或 --preset tiny（内置的评论和小模型，不用网络）"


def read_hub_dataset(
    name: str, text_column: str, label_column: str, hub: str | None = None
) -> dict[str, Iterator[RawReview]]:
    """Split name -> its reviews, of the splits there are; only files under the data set's folder are opened.

    `hub` as for `runtime.hub_download.fetch`. Obeys `HF_ENDPOINT` and `HF_HUB_OFFLINE`. `UserError` for a data set that
    cannot be had or read, that has no training split, or whose tables lack a column.
    """
    from datasets import config, disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    folder = Path(name) if Path(name).is_dir() else fetch(name, "dataset", DATASET_FILES, WAY_OUT, hub=hub)[0]
    arguments = local_files(folder, name)
    disable_progress_bars()
    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else it tells a server which builder is used
    try:
        loaded = load_dataset(**arguments)
    except (DatasetsError, FileNotFoundError, ValueError) as error:
        raise UserError(f"数据集 {name} 读不出来：{first_line(error)}") from None
    if "train" not in loaded:
        raise UserError(f"数据集 {name} 没有 train 部分（有 {'、'.join(loaded)}）")
    for split in loaded:
        for column in (text_column, label_column):
            if column not in loaded[split].column_names:
                there = "、".join(loaded[split].column_names)
                raise UserError(
                    f"{name} 的 {split} 没有 {column} 列（有 {there}）；用 --text_column、--label_column 指定"
                )
    return {split: _reviews(loaded[split], text_column, label_column) for split in SPLITS if split in loaded}


def _reviews(table, text_column: str, label_column: str) -> Iterator[RawReview]:
    # The stored values themselves: a column that calls itself an image would be opened as one, from wherever it says.
    texts = table.data.column(text_column).to_pylist()
    labels = table.data.column(label_column).to_pylist()
    for number, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        yield RawReview(f"第 {number} 行", text, label)

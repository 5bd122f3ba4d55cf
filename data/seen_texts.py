"""The texts that an adapter was trained on, kept as 8-byte hashes beside it.

A later evaluation can thus tell the rows that the model may have learnt by heart from the others,
without the training texts themselves.
"""

from pathlib import Path

import numpy as np

from data.preprocessing import text_hash
from runtime.errors import UserError

FILE_NAME = "training_text_hashes.bin"


def hash_values(texts: list[str]) -> np.ndarray:
    """`text_hash` of each text as uint64, (N,)."""
    return np.array([int(text_hash(text), 16) for text in texts], dtype="<u8")


def save_seen_texts(folder: str | Path, texts: list[str], earlier: np.ndarray | None = None) -> None:
    """Distinct hashes, ascending, 8 bytes each, little-endian; with those of an `earlier` training, (N,)."""
    values = hash_values(texts)
    if earlier is not None:
        values = np.concatenate([values, earlier])
    (Path(folder) / FILE_NAME).write_bytes(np.unique(values).tobytes())


def seen_mask(folder: str | Path, texts: list[str]) -> np.ndarray:
    """(N,) bool: whether the adapter in `folder` was trained on a text of the same normal form."""
    return np.isin(hash_values(texts), read_seen_texts(folder))


def read_seen_texts(folder: str | Path) -> np.ndarray:
    """The hashes of an adapter folder, (N,) uint64; `UserError` where the file is missing or damaged."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise UserError(f"{path} 不存在，无法判断哪些文本在训练中见过；请用 train.py 重新训练")
    content = path.read_bytes()
    if len(content) % 8:
        raise UserError(f"{path} 损坏（{len(content)} 字节，应为 8 的倍数）；请重新训练或恢复备份")
    return np.frombuffer(content, dtype="<u8")

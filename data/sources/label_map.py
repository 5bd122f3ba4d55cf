"""`--label_map`: labels renamed or merged by a table, before anything else looks at them.

from,to
1,差评
2,差评
3,中评
4,好评
5,好评
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data.dataset import RawReview
from data.labels import label_key, shown_labels
from data.sources.record_reader import BadRow, read_records
from runtime.errors import UserError

COLUMNS = ("from", "to")


def read_label_map(path: Path) -> dict[str, str]:
    """Old label -> new one, both in their one spelling (`label_key`); `UserError` that lists all problems."""
    mapping: dict[str, str] = {}
    problems = []
    for where, record in read_records(path, set(COLUMNS), advice="--label_map 的两列应为 from 和 to"):
        if isinstance(record, BadRow):
            problems.append(f"{where}：{record}")
            continue
        old, new = (label_key(record.get(column)) for column in COLUMNS)
        if old is None or new is None:
            problems.append(f"{where}：{'from' if old is None else 'to'} 是空的")
        elif old in mapping:
            problems.append(f"{where}：{old} 出现了不止一次（1 与 1.0 是同一个标签）")
        else:
            mapping[old] = new
    if problems:
        raise UserError(f"--label_map {path}：\n  " + "\n  ".join(problems[:10]))
    if not mapping:
        raise UserError(f"--label_map {path} 里没有数据行")
    return mapping


def mapped_reviews(reviews: Iterable[RawReview], mapping: Mapping[str, str], column: str) -> Iterator[RawReview]:
    """The reviews with their new labels; one whose label the table does not have becomes a bad row."""
    for review in reviews:
        key = label_key(review.label)
        if review.problem is not None:
            yield review
        elif key is not None and key in mapping:
            yield dataclasses.replace(review, label=mapping[key])
        else:
            problem = f"--label_map 里没有 {column} 的值 {review.label!r:.60}（有 {shown_labels(list(mapping))}）"
            yield dataclasses.replace(review, problem=problem)

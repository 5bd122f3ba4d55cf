"""`--apply_corrections`: labels put right and rows taken out, as a person has written into the audit's table.

    text,label,action,new_label
    服务差得要命,正面,,负面        → becomes 负面
    asdf,正面,drop,               → goes
    还行吧,负面,,                 → stays as it is: nobody has filled anything in

A line stands for every row of this text (by `text_hash`) with this label, in whichever split. Columns of other names,
as the audit writes them, play no part.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data.dataset import Rows
from data.labels import label_id, label_problem, text_problem
from data.preprocessing import clean_text
from data.sources.record_reader import BadRow, read_records
from data.training_filters import SHOWN_MISMATCHES, Key, matching_key, row_key
from runtime.errors import UserError

ACTIONS = {
    "": "",
    "drop": "drop",
    "删除": "drop",
    "keep": "keep",
    "保留": "keep",
    "relabel": "relabel",
    "改标": "relabel",
}
ADVICE = "--apply_corrections 的表应有 text、label、new_label 三列（action 可有可无）"


class Correction(NamedTuple):
    """A line that somebody has filled in; the new label's id, or None for rows that go."""

    where: str
    text: str
    label: int
    new_label: int | None


def is_filled(record: Mapping) -> bool:
    """True where a person has written something into a line of the table."""
    return any(_written(record.get(column)) for column in ("action", "new_label"))


def _written(value: Any) -> str:
    return "" if value is None else str(value).strip()


def corrected(splits: Mapping[str, Rows], path: Path, *, whole: bool = True) -> tuple[dict[str, Rows], str]:
    """(the splits as the table at `path` wants them; what was done). `UserError` that lists all problems.

    With `whole` these are all the rows that the table is about, and a line that fits none is a problem.
    """
    names = splits["train" if "train" in splits else next(iter(splits))].label_names
    keys = {
        name: [row_key(text, label) for text, label in zip(rows.texts, rows.labels, strict=True)]
        for name, rows in splits.items()
    }
    present = {key for of_split in keys.values() for key in of_split}
    changes, problems = _changes(path, names, present, whole)
    if problems:
        more = [f"……共 {len(problems)} 行"] if len(problems) > SHOWN_MISMATCHES else []
        listed = "\n  ".join(problems[:SHOWN_MISMATCHES] + more)
        raise UserError(f"--apply_corrections：{path} 有不能用的行，没有改动任何数据：\n  {listed}")

    result, relabelled, dropped = {}, 0, 0
    for name, rows in splits.items():
        kept: list[int] = []
        labels: list[int] = []
        for i, key in enumerate(keys[name]):
            label = changes.get(key, rows.labels[i])
            if label is None:
                dropped += 1
                continue
            relabelled += label != rows.labels[i]
            kept.append(i)
            labels.append(label)
        result[name] = dataclasses.replace(rows.select(kept), labels=labels)
    shown = "、".join(splits)
    return result, f"--apply_corrections：按 {path} 在 {shown} 里改标 {relabelled:,} 行，删去 {dropped:,} 行"


def _changes(path: Path, names: list[str], present: set[Key], whole: bool) -> tuple[dict[Key, int | None], list[str]]:
    """(text and label of rows -> the new label's id, None for rows that go; problems, one a line)."""
    changes: dict[Key, int | None] = {}
    problems = []
    for line in _filled_lines(path, names):
        if isinstance(line, str):
            problems.append(line)
            continue
        key = matching_key(line.text, line.label, present)
        shown = f"{line.where}（{names[line.label]}）「{clean_text(line.text)[:30]}」"
        if key is None and whole:
            problems.append(f"{shown}：数据里没有这个标签的这条文本")
        elif key is not None and changes.setdefault(key, line.new_label) != line.new_label:
            problems.append(f"{shown}：前面有一行对它另有说法")
    return changes, problems


def _filled_lines(path: Path, names: list[str]) -> Iterator[Correction | str]:
    """The lines that somebody has filled in, or the problem of one."""
    for where, record in read_records(path, {"text", "label", "new_label"}, every=True, advice=ADVICE):
        if isinstance(record, BadRow):
            yield f"{where}：{record}"
            continue
        if not is_filled(record):
            continue
        text, label, new_label = (record.get(name) for name in ("text", "label", "new_label"))
        action = ACTIONS.get(_written(record.get("action")).lower())
        has_label = bool(_written(new_label))
        problem = text_problem(text, "text") or label_problem(label, "label", names)
        if action is None:
            problem = problem or f"action 应为 drop、keep、relabel 之一或空着，得到 {record['action']!r:.40}"
        elif has_label and action in ("drop", "keep"):
            problem = problem or f"action 是 {action}，又填了 new_label；请只留一个"
        elif action == "relabel" and not has_label:
            problem = problem or "action 是 relabel，new_label 却空着"
        elif has_label:
            problem = problem or label_problem(new_label, "new_label", names)
        if problem:
            yield f"{where}：{problem}"
        elif action != "keep":
            yield Correction(where, text, label_id(label, names), label_id(new_label, names) if has_label else None)

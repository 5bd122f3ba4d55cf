"""Training rows without repetition, without those that a person has struck out, and not more than asked for.

    rows, notes = filter_training_rows(train, DataConfig(dedup_train=True, drop_rows="drop.csv"))

This is `train.py --dedup_train --drop_rows drop.csv --max_train_samples 200`. Rows are struck out first: a
text with two labels of which one was struck out is no longer a contradiction. The sample is drawn last.
"""

from pathlib import Path

from configs.training_config import DataConfig
from data.audit.duplicates import rows_by_text
from data.dataset import Rows, stratified_sample
from data.labels import labelled_rows
from data.preprocessing import clean_text, text_hash
from data.sources.review_files import read_reviews
from data.spreadsheet_csv import spreadsheet_text
from runtime.errors import UserError

SHOWN_MISMATCHES = 5
Key = tuple[str, int]  # hash of the text, label id


def filter_training_rows(rows: Rows, config: DataConfig) -> tuple[Rows, list[str]]:
    """The rows that stay, and for each filter asked for a line that says what it did."""
    notes = []
    if config.drop_rows:
        kept = drop_listed(rows, Path(config.drop_rows))
        notes.append(f"--drop_rows：按 {config.drop_rows} 删去训练集 {len(rows) - len(kept):,} 行，剩 {len(kept):,} 行")
        rows = kept
    if config.dedup_train:
        rows, note = dedup(rows)
        notes.append(note)
    if (notes or config.apply_corrections) and (
        gone := [name for name, count in rows.label_counts().items() if not count]
    ):
        raise UserError(
            f"--drop_rows / --dedup_train / --apply_corrections 之后训练集不再有标签为 {'、'.join(gone)} 的评论"
        )
    if config.max_train_samples is not None:
        rows, note = limited(rows, config.max_train_samples, config.seed)
        notes.append(note)
    return rows, notes


def limited(rows: Rows, most: int, seed: int) -> tuple[Rows, str]:
    """(at most so many rows, of each label its share and at least one; what was done)."""
    if most < len(rows.label_names):
        raise UserError(f"--max_train_samples：有 {len(rows.label_names)} 种标签，至少要这么多条，得到 {most}")
    kept = stratified_sample(rows, most, seed, each=1)
    if len(kept) == len(rows):
        return rows, f"--max_train_samples：训练集只有 {len(rows):,} 行，全部用上"
    return kept, f"--max_train_samples：从训练集 {len(rows):,} 行中按标签分层抽取 {len(kept):,} 行（种子 {seed}）"


def dedup(rows: Rows) -> tuple[Rows, str]:
    """(the first row of each text, texts with both labels left out altogether; what was done)."""
    kept, repeated, texts, contradictory = [], 0, 0, 0
    for positions in rows_by_text(rows).values():
        if len({rows.labels[i] for i in positions}) > 1:
            texts, contradictory = texts + 1, contradictory + len(positions)
        else:
            kept.append(positions[0])
            repeated += len(positions) - 1
    note = (
        f"--dedup_train：训练集删去 {repeated:,} 行重复，另有 {texts:,} 个文本两种标签都有，"
        f"它们的 {contradictory:,} 行全部删去；剩 {len(kept):,} 行"
    )
    return rows.select(kept), note


def drop_listed(rows: Rows, path: Path) -> Rows:
    """`rows` without those whose text and label stand in the table at `path`.

    The table is that of `python -m data.audit`, or any with the columns text and label; lines whose column `split`
    names another part are passed over. Every copy of a listed text (by `text_hash`) with the listed label goes. A
    `UserError` names the first lines of the table that fit no row, and nothing is dropped.
    """
    keys = [row_key(text, label) for text, label in zip(rows.texts, rows.labels, strict=True)]
    present = set(keys)
    reviews = list(read_reviews(path, "text", "label", others=True))
    if filled := [review.where for review in reviews if review.others.get("action") or review.others.get("new_label")]:
        raise UserError(
            f"--drop_rows：{path} 里填了 action 或 new_label（{filled[0]}），而 --drop_rows 会把列出的行都删去；"
            "请改用 --apply_corrections"
        )
    of_training = [review for review in reviews if review.others.get("split") in (None, "", "train")]
    listed = labelled_rows(of_training, str(path), rows.label_names)
    found = [matching_key(text, label, present) for text, label in zip(listed.texts, listed.labels, strict=True)]
    if None in found:
        raise UserError(_mismatches(path, listed, found, present))
    dropped = set(found)
    return rows.select(i for i, key in enumerate(keys) if key not in dropped)


def row_key(text: str, label: int) -> Key:
    """A row as the lines of a table are compared with it."""
    return text_hash(clean_text(text)), label  # cleaned, as the audit's table has it


def matching_key(text: str, label: int, present: set[Key]) -> Key | None:
    """The key of a listed row: as it stands, or without the quote that `spreadsheet_text` put in front."""
    candidates = [row_key(text, label)]
    if text.startswith("'") and spreadsheet_text(text[1:]) == text:
        candidates.append(row_key(text[1:], label))
    return next((key for key in candidates if key in present), None)


def _mismatches(path: Path, listed: Rows, found: list, present: set[Key]) -> str:
    bad = [i for i, key in enumerate(found) if key is None]
    lines = []
    for i in bad[:SHOWN_MISMATCHES]:
        text, names = listed.texts[i], listed.label_names
        others = [name for label, name in enumerate(names) if matching_key(text, label, present)]
        why = f"训练集里它的标签是{'、'.join(others)}" if others else "训练集里没有这条文本"
        lines.append(f"第 {i + 1} 条（{names[listed.labels[i]]}）「{clean_text(text)[:30]}」：{why}")
    more = [f"……共 {len(bad)} 条"] if len(bad) > SHOWN_MISMATCHES else []
    return (
        f"--drop_rows：{path} 有 {len(bad)} 条与训练集对不上（文本和标签都要相同），没有删去任何行：\n  "
        + "\n  ".join(lines + more)
        + "\n这张表应来自同一份数据：python -m data.audit（同样的 --dataset 或 --train_file）"
    )

"""Look over a data set before training on it: repeats, contradictions, leaks between splits, suspicious labels.

    python -m data.audit --dataset ChnSentiCorp
    python -m data.audit --train_file train.csv --validation_file valid.csv --test_file test.csv

It writes two files into --output_dir. `data_audit.json` has the keys data, splits, overlaps,
suspicious_labels and environment. `suspicious_labels.csv` lists the probably mislabelled rows of
each part, most suspicious first, by file and line. Read it, write the right label into `new_label`
or drop into `action`, and act:

    python train.py --dedup_train --apply_corrections model_evaluation/outputs/suspicious_labels.csv

This file is a script like train.py; the checks themselves are pure functions in
data/audit/duplicates.py and data/audit/label_issues.py.
"""

import dataclasses
import os
import shlex
from pathlib import Path
from subprocess import list2cmdline
from typing import Any

import numpy as np

from configs.audit_config import AuditConfig
from configs.command_line import default_of, help_text, parse_config
from configs.training_config import DataConfig
from data.dataset import Rows
from runtime.errors import UserError, run_script

TABLE = "suspicious_labels.csv"
SHOWN_IN_JSON, SHOWN_IN_TERMINAL = 50, 5


def main() -> None:
    (config,) = parse_config(
        [AuditConfig], None, description=help_text("训练前检查数据：重复、矛盾、泄漏与可疑标注。", __doc__)
    )
    table = Path(config.output_dir) / TABLE
    for flag in ("drop_rows", "apply_corrections"):
        given = getattr(config, flag)
        if given and os.path.realpath(given) == os.path.realpath(table):
            raise UserError(f"--{flag} 就是将要写的 {table}，会被覆盖；请先把它另存为别的名字")
    require_unfilled(table)
    print("正在载入……", flush=True)

    from data.audit.duplicates import overlaps, split_figures
    from data.audit.label_issues import write_suspicious
    from data.data_loader import fingerprints, load_splits
    from runtime.atomic_files import write_json

    splits = load_splits(config)
    print("正在计数……", flush=True)
    audit: dict[str, Any] = {
        "data": {"source": config.train_file or config.dataset, "fingerprints": fingerprints(splits)},
        "splits": {name: split_figures(rows) for name, rows in splits.items()},
        "overlaps": overlaps(splits),
    }
    print("正在找可疑标注……", flush=True)
    audit["suspicious_labels"], records = check_labels(splits["train"], config.seed)
    audit["suspicious_labels"]["held_out"], more = check_held_out(splits, config.seed)
    records += more
    audit["environment"] = versions_used()

    write_suspicious(table, records)
    write_json(table.with_name("data_audit.json"), audit)
    print(summary(audit))
    print(f"\n全部数字在 {table.with_name('data_audit.json')}")
    if records:
        print(
            f"可疑标注在 {table}，可用电子表格打开。请逐条看过：确实标错的，在 new_label 里写对的标签，或在 action 里"
            "写 drop（删去）；没填的行不变。"
            + (f"把填好的行并进 {config.apply_corrections}，" if config.apply_corrections else "")
            + f"存好后（模型等其余参数照旧）：\n  {training_command(config, table)}"
        )


def require_unfilled(table: Path) -> None:
    """A `UserError` where a person has written into the table that is going to be replaced."""
    from data.audit.corrections import is_filled
    from data.sources.record_reader import BadRow, read_records

    if not table.exists():
        return
    for where, record in read_records(table, {"text"}, advice="它不是审计写的表；请换一个 --output_dir"):
        if not isinstance(record, BadRow) and is_filled(record):
            raise UserError(
                f"{table} 里填过 action 或 new_label（{where}），会被覆盖；请先另存为别的名字，或换一个 --output_dir"
            )


def training_command(config: AuditConfig, table: Path) -> str:
    """The command line of a training on the same data with the corrections in the table."""
    words = ["python", "train.py"]
    for field in dataclasses.fields(DataConfig):
        value = getattr(config, field.name)
        if value == default_of(field) or field.name in ("dedup_train", "apply_corrections"):
            continue
        words += [f"--{field.name}", ",".join(value) if isinstance(value, list) else str(value)]
    words += ["--dedup_train", "--apply_corrections", config.apply_corrections or str(table)]
    return list2cmdline(words) if os.name == "nt" else shlex.join(words)


def check_held_out(splits: dict[str, Rows], seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(figures of validation and test, the records of the table)."""
    from data.audit.label_issues import (
        MIN_HELD_OUT_PER_LABEL,
        MIN_TEXTS_PER_LABEL,
        distinct_rows,
        find_suspicious,
        pooled_probabilities,
        suspicious_records,
    )

    all_figures: dict[str, Any] = {}
    all_records: list[dict[str, Any]] = []
    probs = None
    for name in [name for name in splits if name != "train"]:
        rows = splits[name]
        sets, _ = distinct_rows(rows)
        labels = np.array([rows.labels[positions[0]] for positions in sets])
        few = [label for i, label in enumerate(rows.label_names) if (labels == i).sum() < MIN_HELD_OUT_PER_LABEL]
        counts = splits["train"].label_counts()
        if few or min(counts.values()) < MIN_TEXTS_PER_LABEL:
            reason = f"{name} 里 {'、'.join(few)} 不到 {MIN_HELD_OUT_PER_LABEL} 条" if few else "训练集"
            all_figures[name] = {"checked": 0, "found": 0, "note": f"{reason}太少，没有检查 {name} 的可疑标注"}
            continue
        if probs is None:
            probs = pooled_probabilities(splits, seed)
        records = suspicious_records(rows, sets, probs[name], find_suspicious(labels, probs[name]), name)
        all_figures[name] = suspicious_figures(rows, labels, probs[name], records)
        all_records += records
    return all_figures, all_records


def check_labels(rows: Rows, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the JSON's `suspicious_labels`, the records of the table). Checks each text with a label once."""
    from data.audit.label_issues import (
        MIN_TEXTS_PER_LABEL,
        distinct_rows,
        find_suspicious,
        out_of_fold_probabilities,
        suspicious_records,
    )

    sets, groups = distinct_rows(rows)
    texts = [rows.texts[positions[0]] for positions in sets]
    labels = np.array([rows.labels[positions[0]] for positions in sets])
    if few := [name for label, name in enumerate(rows.label_names) if (labels == label).sum() < MIN_TEXTS_PER_LABEL]:
        reason = f"训练集里 {'、'.join(few)} 不到 {MIN_TEXTS_PER_LABEL} 条不同的文本，太少，没有检查可疑标注"
        return {"checked": 0, "found": 0, "note": reason}, []
    probs = out_of_fold_probabilities(texts, labels, groups, seed)
    records = suspicious_records(rows, sets, probs, find_suspicious(labels, probs))
    return suspicious_figures(rows, labels, probs, records), records


def suspicious_figures(rows: Rows, labels: np.ndarray, probs: np.ndarray, records: list[dict]) -> dict[str, Any]:
    """Figures of the N different texts of a split, with `probs` (N, C)."""
    return {
        "method": "字符 1–3-gram TF-IDF + 逻辑回归，5 折折外概率",
        "out_of_fold": True,
        "checked": len(labels),
        "found": len(records),
        "rows": sum(record["copies"] for record in records),
        "share": len(records) / len(labels),
        "accuracy": float((probs.argmax(1) == labels).mean()),
        "by_label": {name: sum(record["label"] == name for record in records) for name in rows.label_names},
        "top": records[:SHOWN_IN_JSON],
    }


def versions_used() -> dict[str, Any]:
    from importlib.metadata import version

    from runtime.run_info import environment

    found = environment()
    return found | {"versions": found["versions"] | {name: version(name) for name in ("cleanlab", "scikit-learn")}}


def summary(audit: dict[str, Any]) -> str:
    """The audit in a few lines of Chinese."""
    lines = [f"\n数据审计：{audit['data']['source']}"]
    for name, figures in audit["splits"].items():
        lines += split_lines(name, figures)
    lines += ["", "两个部分都有的文本（评估时像是考原题）"]
    for pair in (pair for pair in audit["overlaps"] if pair["also_in"] == "train"):
        lines.append(
            f"  {pair['split']} 的 {pair['rows']:,} 行（{pair['share']:.1%}）也在 train 里，"
            f"其中 {pair['other_label']:,} 行在那里有另一种标签"
        )
    others = [pair for pair in audit["overlaps"] if (pair["split"], pair["also_in"]) == ("test", "validation")]
    lines += [f"  test 的 {pair['rows']:,} 行（{pair['share']:.1%}）也在 validation 里" for pair in others]
    lines += ["", *label_lines("train", audit["suspicious_labels"])]
    for name, found in audit["suspicious_labels"]["held_out"].items():
        lines += label_lines(name, found)
    return "\n".join(lines)


def split_lines(name: str, figures: dict[str, Any]) -> list[str]:
    characters, both = figures["characters"], figures["both_labels"]
    counts = "，".join(f"{label} {count:,}" for label, count in figures["labels"].items())
    return [
        f"{name}：{figures['n']:,} 行（{counts}）",
        f"  不同的文本 {figures['distinct_texts']:,} 个，重复 {figures['repeated_rows']:,} 行；"
        f"两种标签都有的文本 {both['texts']:,} 个（{both['rows']:,} 行）；"
        f"没有字母和数字的 {figures['without_letters_or_digits']['n']:,} 行",
        f"  字符数：中位 {characters['median']}，平均 {characters['mean']}，95% 不超过 {characters['p95']}，"
        f"最长 {characters['max']:,}",
    ]


def label_lines(name: str, found: dict[str, Any]) -> list[str]:
    if not found["checked"]:
        return [found["note"]]
    lines = [
        f"{name} 的可疑标注（{found['method']}，准确率 {found['accuracy']:.1%}）",
        f"  {found['checked']:,} 条不同的文本里有 {found['found']:,} 条（{found['share']:.1%}），"
        f"连重复共 {found['rows']:,} 行；最可疑的：",
    ]
    for record in found["top"][:SHOWN_IN_TERMINAL]:
        short = record["text"][:40] + ("……" if len(record["text"]) > 40 else "")
        place = f"{record['file']} {record['where']}".strip()
        lines.append(f"  {place} 标作{record['label']}，像是{record['suggested_label']}：{short}")
    return lines


if __name__ == "__main__":
    run_script(main)

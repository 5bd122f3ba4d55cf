"""The files of a data set's folder by split: those under the folder alone, whatever its card asks for.

    load_dataset(**local_files(Path("…/snapshots/0123abcd"), "lansinuote/ChnSentiCorp"))

Left to itself `load_dataset(folder)` opens what the card names in `data_files`: another machine by ftp:// or http://,
also with HF_HUB_OFFLINE=1, or any file of this one.
"""

import glob
import re
from pathlib import Path, PureWindowsPath
from typing import Any

from runtime.errors import UserError, first_line

BUILDERS = {
    ".parquet": {"path": "parquet"},
    ".jsonl": {"path": "json"},
    ".json": {"path": "json"},
    ".csv": {"path": "csv"},
    ".tsv": {"path": "csv", "sep": "\t"},
}  # what `load_dataset` is told to read them with
# The words in the names of files and folders that `datasets` takes for a split.
SPLIT_WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
NO_DATA = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"}
CARDS = ("README.md", ".huggingface.yaml")
WAY_OUT = "请把数据文件下载下来看过，用 --train_file 指定"


def local_files(folder: Path, name: str) -> dict[str, Any]:
    """Arguments for `load_dataset`: `data_files` by split, from the card or else by their names, and their builder.

    Of files of several kinds one kind is taken, parquet first. `UserError` where the card points out of the folder.
    """
    chosen = _by_card(folder, name) or _by_names(folder)
    kinds = {path.suffix.lower() for paths in chosen.values() for path in paths}
    kind = next((kind for kind in BUILDERS if kind in kinds), None)
    if kind is None:
        raise UserError(f"数据集 {name} 里没有 {'、'.join(BUILDERS)} 文件（{folder}）")
    files = {}
    for split, paths in chosen.items():
        of_kind = sorted(str(path.absolute()) for path in paths if path.suffix.lower() == kind)
        if foreign := [path for path in of_kind if "::" in path or "://" in path]:
            raise UserError(f"数据集 {name}：不读取名字像网址的文件 {foreign[0]}")
        if of_kind:
            files[split] = [glob.escape(path) for path in of_kind]
    return BUILDERS[kind] | {"data_files": files}


def _by_names(folder: Path) -> dict[str, list[Path]]:
    """Files by the word for a split in their name or in the nearest folder's; all to train where none has one."""
    all_files: list[Path] = []
    found: dict[str, list[Path]] = {}
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if path.suffix.lower() not in BUILDERS or path.name in NO_DATA or hidden or not path.is_file():
            continue
        all_files.append(path)
        for part in reversed(parts):
            splits = [SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", part.lower()) if word in SPLIT_WORDS]
            if splits:
                found.setdefault(splits[0], []).append(path)
                break
    return found or {"train": all_files}


def _by_card(folder: Path, name: str) -> dict[str, list[Path]]:
    """The files that the card names for each split; empty where it names nothing."""
    configs = [config for card in CARDS for config in _configs(folder / card, name)]
    for config in configs:
        patterns = [pattern for paths in _patterns(config, name).values() for pattern in paths]
        for pattern in [*patterns, str(config.get("data_dir") or "")]:
            _require_inside(pattern, name)
    configs = [config for config in configs if config.get("data_files")]
    if len(configs) > 1:
        configs = [config for config in configs if config.get("default") or config.get("config_name") == "default"]
        if len(configs) != 1:
            raise UserError(f"数据集 {name} 有几种配置，不知道用哪一种；{WAY_OUT}")
    if not configs:
        return {}
    base, found = folder / str(configs[0].get("data_dir") or ""), {}
    for split, patterns in _patterns(configs[0], name).items():
        try:
            paths = [path for pattern in patterns for path in base.glob(pattern) if path.is_file()]
        except ValueError:
            paths = []  # not a pattern
        if not paths:
            raise UserError(f"数据集 {name} 的说明卡里写着 {split} 的文件 {'、'.join(patterns)}，{base} 里却没有")
        found[split] = paths
    return found


def _configs(card: Path, name: str) -> list[dict[str, Any]]:
    """The `configs` of a card: of the YAML between the two --- lines of README.md, or of a YAML file."""
    import yaml

    if not card.is_file():
        return []
    text = card.read_text(encoding="utf-8", errors="replace")
    if card.suffix == ".md":
        header = re.match(r"\s*---[^\S\n]*\n(.*?)\n---", text, re.DOTALL)
        text = header.group(1) if header else ""
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"数据集 {name} 的说明卡 {card} 读不出来：{first_line(error)}") from None
    configs = values.get("configs") if isinstance(values, dict) else None
    if configs is None:
        return []
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        raise UserError(f"数据集 {name} 的说明卡 {card} 里 configs 应为一列配置")
    return configs


def _patterns(config: dict[str, Any], name: str) -> dict[str, list[str]]:
    """Split -> patterns of a config's `data_files`: a pattern, a list of them, or a list of {split, path}."""
    entries = config.get("data_files") or []
    found: dict[str, list[str]] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        split, paths = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        paths = paths if isinstance(paths, list) else [paths]
        if not isinstance(split, str) or not all(isinstance(path, str) and path for path in paths):
            raise UserError(f"数据集 {name} 的说明卡里 data_files 写得不对：{entry!r:.80}")
        found.setdefault(split, []).extend(paths)
    return found


def _require_inside(pattern: str, name: str) -> None:
    """Relative to the folder, and going down only; for Windows too, where \\\\server and C: lead away."""
    path = PureWindowsPath(pattern)  # takes / and \\ both for what parts a path
    if "::" in pattern or "://" in pattern or path.anchor or ".." in path.parts:
        raise UserError(f"数据集 {name} 的说明卡指向数据集之外的 {pattern!r:.200}，没有打开；{WAY_OUT}")

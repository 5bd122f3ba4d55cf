"""`--config FILE.yaml`: flags from a file of the user's own, and the file that repeats a training.

    batch_size: 16
    learning_rate: 2e-4
    target_modules: [q_proj, v_proj]     # or q_proj,v_proj
    use_qlora: true

Paths in it are relative to where the command is run, as on the command line.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.errors import UserError, first_line

UNUSABLE = re.compile("[\0\ud800-\udfff]")
CONFIG_FILE = "config.yaml"  # its name in the output folder and in the adapter folder


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML mapping; every fault is a `UserError` that names the file."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        for event in yaml.parse(text, yaml.SafeLoader):
            # A tag could name a type to make; references to references could write out gigabytes in a few lines.
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                line = event.start_mark.line + 1
                raise UserError(f"--config {path}：第 {line} 行有 YAML 的标签（!）或引用（*），这里不认；请直接写出值")
        node = yaml.compose(text, yaml.SafeLoader)
        values = {} if node is None else yaml.safe_load(text)
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise UserError(f"--config {path}：应为一行一个参数，形如 batch_size: 16")
    except OSError as error:
        raise UserError(f"--config {path}：读不出来（{error.strerror}）") from None
    except yaml.MarkedYAMLError as error:
        where = f"第 {error.problem_mark.line + 1} 行" if error.problem_mark else ""
        raise UserError(f"--config {path}：{where}不是合规的 YAML（{error.problem}）") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # not UTF-8, a date that is none, nesting without end
        raise UserError(f"--config {path}：读不出来（{first_line(error)}）") from None
    if node is not None and len(node.value) > len(values):
        keys = [key.value for key, _ in node.value]
        raise UserError(f"--config {path}：{max(keys, key=keys.count)} 写了不止一次")
    return values


def plain_value(value: Any, kind: Any, where: str) -> Any:
    """A value of YAML as a flag of this type has it: bool, int, float, `words`, str or what is made of one.

    `UserError` for a value of another type. YAML 1.1 takes 1e-4 for a text, and yes for a boolean.
    """
    if kind is bool:
        good, wanted = isinstance(value, bool), "true 或 false"
    elif kind is int:
        good, wanted = type(value) is int and abs(value) < 2**63, "整数"
    elif kind is float:
        good, wanted = _is_number(value), "数"
    elif kind is words:
        value = words(value) if isinstance(value, str) else value
        good = isinstance(value, list) and all(isinstance(word, str) for word in value)
        wanted = "一列文字，形如 [a, b]（像数的，还有 yes、no，要加引号）"
    elif kind is integers:
        value = [value] if isinstance(value, int) else value
        good = isinstance(value, list) and all(type(number) is int for number in value)
        wanted = "一列整数，形如 [1, 2]"
    else:
        good, wanted = isinstance(value, str), "文字（像数的，还有 yes、no，要加引号）"
    if not good:
        shown = repr(value) if isinstance(value, (str, bool, float)) else f"{type(value).__name__} 类型的值"
        raise UserError(f"{where}：应为{wanted}，得到 {shown:.60}")
    if UNUSABLE.search("".join(value) if kind is words else str(value)):
        raise UserError(f"{where}：有不能用的字符（NUL 或半个代理对）")
    return value if kind in READERS.values() else kind(value)


def words(text: str) -> list[str]:
    """`a, b` as ["a", "b"]."""
    return [word.strip() for word in text.split(",")]


def integers(text: str) -> list[int]:
    """`1, 2` as [1, 2]."""
    return [int(word) for word in words(text)]


READERS: dict[Any, Callable[[str], Any]] = {list[str]: words, list[int]: integers}


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, bool)


def config_text(settings: dict[str, Any]) -> str:
    """The settings of a training as such a file, under the command that repeats it.

    Without `resume_from_checkpoint`, which is about one command alone, and the data set that own files have replaced.
    """
    import yaml

    left_out = {"resume_from_checkpoint"} | ({"dataset"} if settings.get("train_file") else set())
    kept = {name: value for name, value in settings.items() if value is not None and name not in left_out}
    where = Path(str(settings.get("output_dir", "."))) / CONFIG_FILE
    values = yaml.safe_dump(kept, allow_unicode=True, sort_keys=False, width=120)
    return f"# 重复这次训练：python train.py --config {where}\n{values}"

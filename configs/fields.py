"""A configuration field, `option(default, help, bounds)`, and the check of its value."""

import dataclasses
import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16")  # of `--dtype`, the precision to predict in


class ConfigError(ValueError):
    """All problems of a configuration together, one a line."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


def option(default: Any, help: str, **bounds: Any) -> Any:
    """A dataclass field. `bounds`: minimum, maximum (inclusive), above, below (exclusive), choices.

    `aliases` are other names of the flag.
    """
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": help, **bounds})
    return dataclasses.field(default=default, metadata={"help": help, **bounds})


def check_fields(config: Any) -> list[str]:
    """One line for each field of a dataclass whose value is outside its bounds."""
    problems = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == "" and "choices" not in field.metadata:
            problems.append(f"--{field.name}：不能是空的")
        elif value is not None and (problem := _problem_of(value, field.metadata)):
            problems.append(f"--{field.name}：{problem}，得到 {value}")
    return problems


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`（是不是 X？）` for the nearest known word, to follow a misspelt one; empty where none is near."""
    near = get_close_matches(word, known, n=1)
    return f"（是不是 {near[0]}？）" if near else ""


def encoding_problem(name: str | None) -> str | None:
    """The reason why `--encoding` names no encoding of Chinese texts; None where it does, or is not given."""
    try:
        if name is not None:
            "评论".encode(name)
    except (LookupError, ValueError):
        return f"--encoding：不是能写汉字的编码 {name!r:.40}（可用 utf-8、gb18030、gbk、big5、utf-16 等）"
    return None


def _problem_of(value: Any, bounds: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "应为有限的数"
    checks = {
        "minimum": lambda bound: value >= bound or f"应不小于 {bound}",
        "maximum": lambda bound: value <= bound or f"应不大于 {bound}",
        "above": lambda bound: value > bound or f"应大于 {bound}",
        "below": lambda bound: value < bound or f"应小于 {bound}",
        "choices": lambda bound: value in bound or f"应为 {'、'.join(bound)} 之一{did_you_mean(value, bound)}",
    }
    for name, check in checks.items():
        if name in bounds and (answer := check(bounds[name])) is not True:
            return answer
    return None

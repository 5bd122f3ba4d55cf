"""Dataclasses to command-line flags: name, type, default and help stand in one place, the dataclass.

    config, lora = parse_config([TrainingConfig, LoraSettings], argv, description="…", presets=True)

A boolean `--flag` has a `--no_flag`; a list is separated by commas. `--preset NAME` reads
`configs/presets/NAME.yaml` and only changes defaults: a flag on the command line wins.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from configs.fields import ConfigError
from runtime.errors import UserError

PRESETS = Path(__file__).parent / "presets"


def help_text(title: str, docstring: str) -> str:
    """A Chinese title, and below it the commands that a script's docstring shows (its indented lines)."""
    commands = [line for line in docstring.splitlines() if line.startswith("    ")]
    return "\n".join([title, "", *commands])


class ArgumentParser(argparse.ArgumentParser):
    """Ends at a mistake with one message instead of the whole usage; takes no abbreviated flags."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"错误：{_in_chinese(message)}\n（{self.prog} --help 列出所有参数）\n")


def parse_config(
    classes: list[type],
    argv: list[str] | None,
    *,
    description: str,
    presets: bool = False,
    inherit: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> list[Any]:
    """One checked instance for each dataclass; ends the program at a mistake, all problems together.

    `inherit` gets the values of the given flags and returns defaults that win over those of a preset.
    """
    parser = ArgumentParser(description=description)
    for cls in classes:
        add_fields(parser, cls)
    if presets:
        parser.add_argument(
            "--preset",
            metavar="NAME",
            default=argparse.SUPPRESS,
            help=f"一组默认值（{'、'.join(preset_names())}）；命令行上的参数优先",
        )
    given = vars(parser.parse_args(argv))
    try:
        values = load_preset(given.pop("preset"), classes) if "preset" in given else {}
        values |= (inherit(given) if inherit else {}) | given
    except UserError as error:
        parser.error(str(error))
    if given.get("dataset") and given.get("train_file"):
        parser.error("--dataset 与 --train_file 只能给一个：前者是现成的数据集，后者是自己的文件")
    return build(parser, classes, values)


def build(parser: argparse.ArgumentParser, classes: list[type], values: dict[str, Any]) -> list[Any]:
    """The dataclasses filled with `values`; all their problems end the program in one message."""
    built, problems = [], []
    for cls in classes:
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            built.append(cls(**{name: value for name, value in values.items() if name in names}))
        except ConfigError as error:
            problems += error.problems
    if problems:
        parser.error("\n  ".join(problems))
    return built


def add_fields(parser: argparse.ArgumentParser, cls: type) -> None:
    """One flag for each field of `cls`; a flag that is not given leaves no trace in the namespace."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        shown = default_of(field)
        text = field.metadata["help"].replace("%", "%%") + ("" if shown is None else f"（默认 {_shown(shown)}）")
        name, kind = f"--{field.name}", _plain_type(hints[field.name])
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        if kind is bool:
            parser.add_argument(name, action="store_true", **options)
            off = argparse.SUPPRESS if not shown else f"关闭 {name}"
            parser.add_argument(
                f"--no_{field.name}", dest=field.name, action="store_false", default=argparse.SUPPRESS, help=off
            )
        else:
            read = _words if typing.get_origin(kind) is list else kind
            parser.add_argument(name, type=read, metavar=field.name.split("_")[-1].upper(), **options)


def default_of(field: dataclasses.Field) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_preset(name: str, classes: list[type]) -> dict[str, Any]:
    """Field values of `configs/presets/NAME.yaml`; an unknown name or key is a `UserError`."""
    import yaml

    path = PRESETS / f"{name}.yaml"
    if name not in preset_names():
        raise UserError(f"--preset：没有名为 {name} 的预设；现有 {'、'.join(preset_names())}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {field.name for cls in classes for field in dataclasses.fields(cls)}
    if unknown := set(values) - known:
        raise UserError(f"{path}：不认识的键 {'、'.join(sorted(unknown))}")
    return values


def _plain_type(hint: Any) -> Any:
    """`int | None` -> `int`."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _shown(value: Any) -> str:
    """A default as `--help` shows it and as one would type it."""
    if isinstance(value, bool):
        return "开" if value else "关"
    if isinstance(value, list):
        return ",".join(value)
    return str(value).replace("\n", "\\n")


_PHRASES = {
    "unrecognized arguments:": "不认识的参数",
    "expected one argument": "后面应有一个值",
    "expected at least one argument": "后面应至少有一个值",
    "invalid int value:": "应为整数，得到",
    "invalid float value:": "应为数，得到",
    "invalid choice:": "没有这个选项：",
    "the following arguments are required:": "缺少参数",
    "argument ": "",
}


def _in_chinese(message: str) -> str:
    for phrase, chinese in _PHRASES.items():
        message = message.replace(phrase, chinese)
    return message

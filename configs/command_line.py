"""Dataclasses to command-line flags: name, type, default and help stand in one place, the dataclass.

    config, lora = parse_config([TrainingConfig, LoraSettings], argv, description="…", presets=True)

A boolean `--flag` has a `--no_flag`; a list is separated by commas. `--preset NAME` reads
`configs/presets/NAME.yaml` and only changes defaults. `--config FILE.yaml` reads a file of the user's own. The command
line wins over that file, and the file over a preset.
"""

import argparse
import dataclasses
import os
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from configs.config_file import READERS, plain_value, read_mapping, words
from configs.fields import ConfigError, did_you_mean
from runtime.errors import UserError
from runtime.hub_download import HUB_VARIABLE, HUBS

PRESETS = Path(__file__).parent / "presets"
# Flags that name the rows, or the seeds: one on the command line takes the place of these in a file.
REPLACED = {
    "dataset": {"train_file", "validation_file", "test_file"},
    "train_file": {"dataset"},
    "test_file": {"dataset"},
    "seed": {"seeds"},
    "seeds": {"seed"},
}


def help_text(title: str, docstring: str) -> str:
    """A Chinese title, and below it the commands that a script's docstring shows (its indented lines)."""
    commands = [line for line in docstring.splitlines() if line.startswith("    ")]
    return "\n".join([title, "", *commands])


class ArgumentParser(argparse.ArgumentParser):
    """Ends at a mistake with one message instead of the whole usage; takes no abbreviated flags, and `--config`."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        self.add_argument(
            "--config",
            metavar="FILE",
            default=argparse.SUPPRESS,
            help="从 YAML 文件读参数，一行一个，形如 batch_size: 16；命令行上的参数优先",
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The flags, over those of the file that `--config` names."""
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--config")
        try:
            path = finder.parse_known_args(args)[0].config
        except argparse.ArgumentError:
            path = None  # told below
        if path is not None:
            values = self.read_config(path)
            self.set_defaults(**values)
            for action in self._actions:
                action.required = action.required and action.dest not in values
        return self.parse_flags(args, namespace)

    def parse_flags(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        """The flags of the command line alone."""
        flags, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            shown = [f"{word}{did_you_mean(word.split('=')[0], known)}" for word in unknown]
            self.error(f"不认识的参数 {' '.join(shown)}")
        return flags

    def read_config(self, path: str) -> dict[str, Any]:
        """Destination -> value of the flags in a YAML file; null is as not given. Ends the program at a mistake."""
        flags = {name[2:]: action for name, action in self._option_string_actions.items() if name.startswith("--")}
        flags = {name: flag for name, flag in flags.items() if flag.const is not False}  # use_qlora: false, not no_…
        for name in ("config", "help"):
            del flags[name]
        values: dict[str, Any] = {}
        try:
            for key, value in read_mapping(path).items():
                if key not in flags:
                    raise UserError(f"--config {path}：不认识的参数 {key:.60}{did_you_mean(key, flags)}")
                flag = flags[key]
                kind = bool if flag.nargs == 0 else flag.type or str
                if isinstance(flag, argparse._AppendAction):  # a flag that may be given several times
                    kind, value = words, [value] if isinstance(value, str) else value
                if value is not None:
                    values[flag.dest] = plain_value(value, kind, f"--config {path}：{key}")
                    self._check_value(flag, value)
        except (UserError, argparse.ArgumentError) as error:
            self.error(str(error))
        return values

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = did_you_mean(str(value), action.choices)
            raise argparse.ArgumentError(action, f"应为 {'、'.join(action.choices)} 之一{near}，得到 {value}")

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
    given = vars(parser.parse_flags(argv))
    file = given.pop("config", None)
    in_file = parser.read_config(file) if file is not None else {}
    for source, where in ((given, ""), (in_file, f"--config {file}：")):
        if source.get("dataset") and source.get("train_file"):
            parser.error(f"{where}--dataset 与 --train_file 只能给一个：前者是现成的数据集，后者是自己的文件")
        if "seed" in source and source.get("seeds"):
            parser.error(f"{where}--seed 与 --seeds 只能给一个：一个种子，或依次训练几个")
    replaced = {name for flag in given for name in REPLACED.get(flag, ())}
    given = {name: value for name, value in in_file.items() if name not in replaced} | given
    try:
        values = load_preset(given.pop("preset"), classes) if "preset" in given else {}
        values |= (inherit(given) if inherit else {}) | given
    except UserError as error:
        parser.error(str(error))
    if os.environ.get(HUB_VARIABLE) in HUBS:  # recorded like the flag; another value is told where a hub is asked
        values.setdefault("hub", os.environ[HUB_VARIABLE])
    built = build(parser, classes, values, file if in_file else None)
    if values.get("hub"):
        os.environ[HUB_VARIABLE] = values["hub"]  # for whatever asks a hub, here and in the processes it starts
    return built


def build(
    parser: argparse.ArgumentParser, classes: list[type], values: dict[str, Any], file: str | None = None
) -> list[Any]:
    """The dataclasses filled with `values`, some of them from `file`; all problems end the program in one message."""
    built, problems = [], []
    for cls in classes:
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            built.append(cls(**{name: value for name, value in values.items() if name in names}))
        except ConfigError as error:
            problems += error.problems
    if problems:
        parser.error("\n  ".join([*problems, *([f"（有的参数来自 --config {file}）"] if file else [])]))
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
            read = READERS.get(kind, kind)
            names = [name, *field.metadata.get("aliases", ())]
            parser.add_argument(*names, type=read, metavar=field.name.split("_")[-1].upper(), **options)


def default_of(field: dataclasses.Field) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_preset(name: str, classes: list[type]) -> dict[str, Any]:
    """Field values of `configs/presets/NAME.yaml`; an unknown name or key is a `UserError`."""
    import yaml

    path = PRESETS / f"{name}.yaml"
    if name not in preset_names():
        near = did_you_mean(name, preset_names())
        raise UserError(f"--preset：没有名为 {name} 的预设{near}；现有 {'、'.join(preset_names())}")
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


def _shown(value: Any) -> str:
    """A default as `--help` shows it and as one would type it."""
    if isinstance(value, bool):
        return "开" if value else "关"
    if isinstance(value, list):
        return ",".join(value)
    return str(value).replace("\n", "\\n")


_PHRASES = {
    "expected one argument": "后面应有一个值",
    "expected at least one argument": "后面应至少有一个值",
    "invalid int value:": "应为整数，得到",
    "invalid float value:": "应为数，得到",
    "invalid integers value:": "应为整数，用半角逗号分隔，得到",
    "the following arguments are required:": "缺少参数",
    "argument ": "",
}


def _in_chinese(message: str) -> str:
    for phrase, chinese in _PHRASES.items():
        message = message.replace(phrase, chinese)
    return message

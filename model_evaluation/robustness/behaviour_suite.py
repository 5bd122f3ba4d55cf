"""The behaviour suite: what a sentiment classifier can and cannot do, one ability at a time.

In the manner of CheckList (Ribeiro et al. 2020, "Beyond Accuracy"): one accuracy over a test
split hides what a model fails at, so hand-written reviews test one ability each. The reviews are
invented, and so are the shops and brands in them.
Pure functions; the model is asked elsewhere:

    suite = load_suite()
    texts, labels = suite_texts(suite)
    scores = score_suite(suite, pred)  # pred (N,) label ids, in the order of `texts`

A suite file is a JSON list of abilities; each has `name`, `title`, `description` and `cases`, and
each case `text`, `label` (0 or 1) and `reason`, which says why the label holds.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data.dataset import LABEL_NAMES
from data.preprocessing import clean_text
from data.text_hash import text_hash
from model_evaluation.metrics.intervals import wilson_interval
from runtime.errors import UserError

SUITE_PATH = Path(__file__).parent / "resources" / "behaviour_suite.json"
LABEL_IDS = range(len(LABEL_NAMES))
ABILITY_KEYS = ("name", "title", "description", "cases")
CASE_KEYS = ("text", "label", "reason")
NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Case:
    """One review, its label id, and why the label holds."""

    text: str
    label: int
    reason: str


@dataclass(frozen=True)
class Ability:
    """Cases that test one thing; `name` is an English id, `title` and `description` are for readers."""

    name: str
    title: str
    description: str
    cases: tuple[Case, ...]


def load_suite(path: str | Path = SUITE_PATH) -> list[Ability]:
    """The abilities of a suite file, checked; raises one `UserError` that lists all the problems."""
    entries = _read_json(Path(path))
    problems = _suite_problems(entries)
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(f"行为测试集 {path} 有 {len(problems)} 处问题，请改正后再运行：{listed}")
    return [Ability(**{**entry, "cases": tuple(Case(**case) for case in entry["cases"])}) for entry in entries]


def suite_texts(suite: Sequence[Ability]) -> tuple[list[str], list[int]]:
    """(texts, labels) of all cases, ability after ability."""
    cases = [case for ability in suite for case in ability.cases]
    return [case.text for case in cases], [case.label for case in cases]


def score_suite(suite: Sequence[Ability], pred: np.ndarray) -> dict:
    """Scores of each ability and of all cases together, ready for JSON.

    `pred` (N,) holds label ids in the order of `suite_texts`; any other shape or value raises
    `ValueError`. Returns `{"overall": {n, accuracy, interval}, "abilities": {name: {title,
    description, n, accuracy, interval, wrong_by_label, failures}}}`: `interval` is the Wilson 95%
    interval [low, high] of the accuracy, `wrong_by_label` counts the failures by true label id.
    """
    pred = _checked_pred(pred, sum(len(ability.cases) for ability in suite))
    abilities, start = {}, 0
    for ability in suite:
        stop = start + len(ability.cases)
        abilities[ability.name] = _score_ability(ability, pred[start:stop])
        start = stop
    n_wrong = sum(len(scores["failures"]) for scores in abilities.values())
    return {"overall": _accuracy(len(pred) - n_wrong, len(pred)), "abilities": abilities}


def _score_ability(ability: Ability, pred: np.ndarray) -> dict:
    answers = zip(ability.cases, pred.tolist(), strict=True)
    failures = [{**asdict(case), "pred": answer} for case, answer in answers if case.label != answer]
    wrong = Counter(failure["label"] for failure in failures)
    n = len(ability.cases)
    return {
        "title": ability.title,
        "description": ability.description,
        **_accuracy(n - len(failures), n),
        "wrong_by_label": {str(label): wrong[label] for label in LABEL_IDS},
        "failures": failures,
    }


def _accuracy(right: int, n: int) -> dict:
    return {"n": n, "accuracy": right / n, "interval": list(wilson_interval(right, n))}


def _checked_pred(pred: np.ndarray, n: int) -> np.ndarray:
    """`pred` as it is; probabilities or the answers of another suite would be scored in silence."""
    pred = np.asarray(pred)
    if n == 0:
        raise ValueError("行为测试集里没有用例")
    if pred.shape != (n,):
        raise ValueError(f"行为测试集有 {n} 条用例，预测的形状却是 {pred.shape}")
    if not np.issubdtype(pred.dtype, np.integer) or not np.isin(pred, LABEL_IDS).all():
        raise ValueError(f"预测应为标签编号 {'/'.join(map(str, LABEL_IDS))}，得到 {np.unique(pred)[:5]}")
    return pred


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"读不了行为测试集 {path}（{error.strerror}）") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise UserError(f"行为测试集 {path} 不是 UTF-8 编码的 JSON：{error}") from error


def _suite_problems(entries) -> list[str]:
    if not isinstance(entries, list) or not entries:
        return ["最外层应为非空的列表，每项是一种能力"]
    problems, cases = [], []
    for i, entry in enumerate(entries, 1):
        where = f"第 {i} 种能力"
        problems += _key_problems(entry, ABILITY_KEYS, where) or _ability_problems(entry, where)
        cases += _located_cases(entry, where)
    for case, where in cases:
        problems += _key_problems(case, CASE_KEYS, where) or _case_problems(case, where)
    return problems + _repeated(_names(entries), "name") + _repeated(_text_keys(cases), "text")


def _key_problems(entry, keys: tuple[str, ...], where: str) -> list[str]:
    if not isinstance(entry, dict):
        return [f"{where}应为对象，含 {'、'.join(keys)}"]
    missing = [f"{where}缺少 {key}" for key in keys if key not in entry]
    return missing + [f"{where}有不认识的项 {key}" for key in entry if key not in keys]


def _ability_problems(entry: dict, where: str) -> list[str]:
    problems = [f"{where}的 {key} 应为非空的文字" for key in ("title", "description") if not _is_text(entry[key])]
    if not isinstance(entry["name"], str) or not NAME_PATTERN.fullmatch(entry["name"]):
        problems.append(f"{where}的 name 应由小写字母、数字和下划线组成，得到 {entry['name']!r:.40}")
    if not isinstance(entry["cases"], list) or not entry["cases"]:
        problems.append(f"{where}的 cases 应为非空的列表")
    return problems


def _case_problems(case: dict, where: str) -> list[str]:
    problems = [f"{where}的 {key} 应为非空的文字" for key in ("text", "reason") if not _is_text(case[key])]
    if type(case["label"]) is not int or case["label"] not in LABEL_IDS:  # `true` is an int too
        problems.append(f"{where}的 label 应为 0 或 1，得到 {case['label']!r:.40}")
    return problems


def _located_cases(entry, where: str) -> list[tuple[object, str]]:
    """Each case of an ability, and where it stands."""
    cases = entry.get("cases") if isinstance(entry, dict) else None
    return [(case, f"{where}的第 {i} 条") for i, case in enumerate(cases, 1)] if isinstance(cases, list) else []


def _names(entries: list) -> list[tuple[str, str]]:
    named = [(entry.get("name"), f"第 {i} 种能力") for i, entry in enumerate(entries, 1) if isinstance(entry, dict)]
    return [(name, where) for name, where in named if isinstance(name, str)]


def _text_keys(cases: list[tuple[object, str]]) -> list[tuple[str, str]]:
    """Two texts with the same hash are one text: see `data.text_hash`."""
    texts = [(case.get("text"), where) for case, where in cases if isinstance(case, dict)]
    return [(text_hash(text), where) for text, where in texts if isinstance(text, str)]


def _repeated(keys: list[tuple[str, str]], what: str) -> list[str]:
    """One problem for each key that came before; `keys` holds (key, where it stands)."""
    first: dict[str, str] = {}
    return [f"{where}的 {what} 与{first[key]}重复" for key, where in keys if first.setdefault(key, where) != where]


def _is_text(value) -> bool:
    return isinstance(value, str) and bool(clean_text(value))

"""The prompt around a review, for heads that ask a language model which label word follows."""

from collections.abc import Sequence

PLACE = "{text}"
PROMPT_TEMPLATE = f"评论：{PLACE}\n情感倾向："
ANY_LABELS_TEMPLATE = f"评论：{PLACE}\n类别："  # for labels that are no sentiments
SENTIMENTS = {"负面", "正面"}


def default_template(labels: Sequence[str]) -> str:
    """The template for these labels, where the user gives none."""
    return PROMPT_TEMPLATE if set(labels) == SENTIMENTS else ANY_LABELS_TEMPLATE


def template_parts(template: str) -> tuple[str, str]:
    """The texts before and after the review; ValueError unless there is one place, with text behind it."""
    before, *after = template.split(PLACE)
    if len(after) != 1 or not after[0]:
        raise ValueError(f"提示词模板里应有且只有一个 {PLACE}，后面还要有文字，得到 {template!r}")
    return before, after[0]


def prompt_problems(template: str | None, words: list[str] | None) -> list[str]:
    """Problems of a prompt and its label words, one line each, as far as can be told without a tokenizer."""
    problems = []
    if template is not None:
        try:
            template_parts(template)
        except ValueError as error:
            problems.append(f"--prompt_template：{error}")
    if words is None:
        return problems
    visible = all(word and word.isprintable() for word in words)
    if len(words) < 2 or not visible or len(set(words)) < len(words):
        problems.append(f"--label_words：应至少两个、都不为空、能显示且互不相同，逗号分隔，得到 {','.join(words)!r}")
    return problems


def typed(template: str | None) -> str | None:
    r"""A template as one can type it in a shell, where a line break is written \n."""
    return template and template.replace("\\n", "\n")

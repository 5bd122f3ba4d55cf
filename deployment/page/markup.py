"""The page's own HTML. Everything that comes from a review, a label or a file goes through `escape`."""

from html import escape
from typing import Any

from deployment.page.explanation import Explanation
from deployment.page.uploads import FileSummary

# Teal speaks for the answer; orange, also underlined, against it.
FOR, AGAINST = (13, 148, 136), (234, 88, 12)
STRONGEST = 0.55  # opacity behind the word with the largest score
FAINTEST = 0.04


def verdict(answer: dict[str, Any]) -> str:
    """Label, confidence, and whether a person should read the text."""
    said = f"<strong>{escape(answer['label'])}</strong>把握 {answer['confidence']:.1%}"
    if answer.get("accepted", True):
        return f'<div class="verdict">{said}</div>'
    return f'<div class="verdict unsure">{said}　<b>请人工看</b>：把握没有达到所要求的精确率的阈值</div>'


def fault(message: str) -> str:
    """A message about something that did not work."""
    return f'<div class="verdict fault">{escape(message)}</div>'


def notice(message: str) -> str:
    """A message about something that did."""
    return f'<div class="verdict">{escape(message)}</div>'


def coloured_words(explanation: Explanation, label: str) -> str:
    """The review with each word on a ground as strong as its score."""
    largest = max((abs(score) for _, score in explanation.words), default=0.0)
    pieces = []
    for word, score in explanation.words:
        opacity = STRONGEST * abs(score) / largest if largest else 0.0
        if opacity < FAINTEST:
            pieces.append(escape(word))
            continue
        red, green, blue = FOR if score > 0 else AGAINST
        kind = "for" if score > 0 else "against"
        colour = f"rgba({red},{green},{blue},{opacity:.2f})"
        pieces.append(f'<mark class="{kind}" style="background:{colour}">{escape(word)}</mark>')
    if explanation.unread:
        pieces.append(f'<span class="unread">{escape(explanation.unread)}</span>')
    legend = f"青色的词支持“{escape(label)}”，橙色带点线的反对；越深越强。这说明模型，不说明评论。"
    if explanation.unread:
        legend += "灰色的部分太长，模型没有读。"
    return f'<div class="words">{"".join(pieces)}</div><p class="legend">{legend}</p>'


def overview(summary: FileSummary) -> str:
    """A bar for each label of a file, the most frequent first, and a table of its first rows."""
    rows = []
    for label, count in summary.labels.most_common():
        share = count / summary.count
        bar = f'<div class="bar"><div style="width:{share:.1%}"></div></div>'
        rows.append(f"<span>{escape(label)}</span>{bar}<span>{count:,} 条　{share:.1%}</span>")
    text = f"共 {summary.count:,} 条"
    if summary.unsure is not None:
        text += f"，其中 {summary.unsure:,} 条请人工看"
    text += f"。下面是前 {len(summary.rows)} 条。"
    lines = []
    for answer in summary.rows:
        unsure = "<br><b>请人工看</b>" if answer.unsure else ""
        said = f"{escape(answer.label)}<br><small>{answer.confidence:.1%}</small>{unsure}"
        lines.append(f"<tr><td>{said}</td><td><div>{escape(answer.text)}</div></td></tr>")
    table = f'<table class="answers"><tr><th>标签</th><th>评论</th></tr>{"".join(lines)}</table>'
    return f'<div class="shares">{"".join(rows)}</div><p class="note">{text}</p>{table}'

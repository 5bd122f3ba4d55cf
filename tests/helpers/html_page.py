"""A page as its elements, figures and text, for tests of reports."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Elements as (name, attributes), the text of each `<data>`, and whether every element was closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.figures, self.open, self.texts = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name == "data":
            self.figures.append([dict(attributes), ""])
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open and self.open[-1] == name, f"</{name}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, text):
        if "style" not in self.open:
            self.texts.append(text)
        if "data" in self.open:
            self.figures[-1][1] += text

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))

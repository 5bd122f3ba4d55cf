"""A matplotlib figure as `<svg>` of a page: real text in the page's fonts, the page's colours, nothing from outside.

    @page_style
    def diagonal() -> Markup:
        figure, axes = new_plot(height=300)
        axes.plot([0, 1], [0, 1], color=COLOUR["accent"])
        return inline_svg(figure, "对角线")

matplotlib needs no Chinese font: it writes texts as texts, and the browser sets them. Colours are those of style.css;
they become `var(--accent)` and so on, so that one drawing serves light, dark and paper.
"""

import io
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE_SHEET = (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
LIGHT_AND_DARK = STYLE_SHEET[: STYLE_SHEET.index("\n* {")]  # the variables of both
COLOUR = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", LIGHT_AND_DARK[: LIGHT_AND_DARK.index("@media")]))
VARIABLE = {value: f"var(--{name})" for name, value in COLOUR.items()}
NAMESPACE = "http://www.w3.org/2000/svg"
HINT = "hint: "  # begins the group id of an artist that has a hint
WIDTH = 360  # of a plot, in SVG units: about the pixels that it takes on a desktop and on a phone

page_style = matplotlib.rc_context(
    {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a label may hold dollar signs
        "figure.frameon": False,
        "axes.facecolor": "none",
        "font.size": 12,
        "axes.labelpad": 8,
        "text.color": COLOUR["ink"],
        "axes.labelcolor": COLOUR["soft"],
        "xtick.labelcolor": COLOUR["soft"],
        "ytick.labelcolor": COLOUR["soft"],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.major.pad": 7,
        "ytick.major.pad": 7,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.spines.bottom": False,
        "axes.edgecolor": COLOUR["soft"],
        "axes.grid": True,
        "grid.color": COLOUR["grid"],
        "grid.linewidth": 1,
        "lines.linewidth": 2.25,
    }
)


def new_plot(
    height: float, width: float = WIDTH, left: float = 56, right: float = 16, top: float = 12, bottom: float = 46
) -> tuple[Figure, Axes]:
    """An empty plot with margins in SVG units."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
    return figure, axes


def set_hint(artist: matplotlib.artist.Artist, text: str) -> None:
    """Let `text` show when the pointer rests on the artist."""
    artist.set_gid(HINT + text)


def inline_svg(figure: Figure, label: str) -> Markup:
    """The figure as an element of the page, as wide as there is room; `label` is read out by a screen reader.

    Without ids and references, of which several drawings of one page would have the same.
    """
    return Markup(ElementTree.tostring(_as_element(figure, label), encoding="unicode"))


def standalone_svg(figure: Figure, label: str) -> str:
    """The figure as a file of its own, in light and dark."""
    root = _as_element(figure, label)
    style = ElementTree.Element("style")
    style.text = LIGHT_AND_DARK + (
        '\nsvg { background: var(--page); font-family: system-ui, "PingFang SC", "Microsoft YaHei", sans-serif; }\n'
    )
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _as_element(figure: Figure, label: str) -> ElementTree.Element:
    written = io.StringIO()
    with warnings.catch_warnings():
        # The browser has the glyphs that matplotlib misses.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(written, format="svg")
    # A text may hold control characters, which XML must not.
    printable = "".join(letter for letter in written.getvalue() if letter.isprintable() or letter == "\n")
    root = ElementTree.fromstring(printable)
    for child in root.findall(f"{{{NAMESPACE}}}metadata") + root.findall(f"{{{NAMESPACE}}}defs"):
        root.remove(child)

    for element in list(root.iter()):
        element.tag = element.tag.removeprefix(f"{{{NAMESPACE}}}")
        element.attrib.pop("clip-path", None)
        identity = element.attrib.pop("id", "")
        if identity.startswith(HINT):
            title = ElementTree.Element("title")
            title.text = identity.removeprefix(HINT)
            element.insert(0, title)
        # Properties become attributes, of which a style sheet may think otherwise; the font is the page's.
        for declaration in filter(None, element.attrib.pop("style", "").split("; ")):
            name, value = declaration.split(": ")
            if name != "font-family":
                element.set(name, VARIABLE.get(value, value))

    root.attrib = {
        "xmlns": NAMESPACE,
        "class": "plot",
        "viewBox": root.attrib["viewBox"],
        "stroke-linejoin": "round",
        "role": "img",
        "aria-label": label,
    }
    return root

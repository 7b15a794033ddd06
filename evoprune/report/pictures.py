"""Figures as SVG within a page: without scripts, styles or ids that could clash; large ones are PNG."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from evoprune.figures import drawing
from evoprune.report.blocks import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Bytes of SVG from which on a figure is embedded as PNG.
LARGEST = 150_000
# Parts of a figure from which on its SVG would be larger than that: it is not made first.
MOST_PARTS = 1500
# Inches of width from which on a figure has a line for itself.
_WIDE = 9.0
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_ELEMENTS = {"svg", "g", "path", "use", "defs", "clipPath", "rect", "text", "tspan", "image"}
_ATTRIBUTES = {
    "d", "x", "y", "dx", "dy", "width", "height", "transform", "clip-path", "viewBox", "preserveAspectRatio", "fill",
    "fill-opacity", "fill-rule", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray", "stroke-dashoffset",
    "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "opacity", "font-size", "font-family", "font-style",
    "font-weight", "text-anchor", "image-rendering", "id",
}  # fmt: skip
_IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]+")


def picture(name: str, caption: str, draw: Callable[[], Figure], prefix: str) -> Picture:
    """Returns a figure for a page.

    Args:
        name: Its name, for readers who do not see it.
        caption: The text below it.
        draw: Draws it.
        prefix: Letters that begin all ids within it; no other figure of the page may have the same.
    """
    figure = _drawn(draw)
    is_large = len(figure.findobj()) > MOST_PARTS
    content = b"" if is_large else _file(figure, "svg")
    is_wide = bool(figure.get_figwidth() > _WIDE)
    if is_large or len(content) > LARGEST:
        if not is_large:
            figure.set_layout_engine("none")  # it is laid out already
        address = f"data:image/png;base64,{base64.b64encode(_of_few_colors(_file(figure, 'png'))).decode()}"
        return Picture(name, caption, image=address, is_wide=is_wide)
    return Picture(name, caption, inline(content, prefix, name), is_wide=is_wide)


def inline(content: bytes, prefix: str, label: str) -> Markup:
    """Returns an SVG file as an element of a page: of a few known elements and attributes, with ids that begin by a prefix.

    Styles become attributes, for a page without inline styles.

    Args:
        content: The file.
        prefix: Letters that begin all ids.
        label: Its name, for readers who do not see it.
    """
    root = ElementTree.fromstring(content)
    _clean(root, prefix)
    used = set(re.findall(rf"#({re.escape(prefix)}[\w-]+)", ElementTree.tostring(root, "unicode")))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    width, height = (root.attrib.pop(name).removesuffix("pt") for name in ("width", "height"))
    root.attrib.update({"role": "img", "aria-label": label, "stroke-linejoin": "round", "stroke-linecap": "butt"})
    root.attrib.update({"width": width, "height": height, "class": "figure"})
    return Markup(ElementTree.tostring(root, "unicode"))


def _drawn(draw: Callable[[], Figure]) -> Figure:
    with drawing.importing_matplotlib():
        from matplotlib import style
    with style.context("default"):
        return draw()


def _file(figure: Figure, kind: str) -> bytes:
    from matplotlib import rc_context, style

    content = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type")) if kind == "svg" else {}
    with style.context("default"), rc_context({"svg.fonttype": "none", "svg.hashsalt": "evoprune"}):
        figure.savefig(content, dpi=100, format=kind, metadata=nothing)
    return content.getvalue()


def _of_few_colors(content: bytes) -> bytes:
    """Returns a PNG file with 128 colours, of a third of the size."""
    from PIL import Image

    smaller = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").quantize(128).save(smaller, "png", optimize=True)
    return smaller.getvalue()


def _clean(element: ElementTree.Element, prefix: str) -> None:
    for child in list(element):
        if child.tag.removeprefix(_SVG) in _ELEMENTS:
            _clean(child, prefix)
        else:
            element.remove(child)
    found = {**element.attrib, **_attributes_of(element.get("style", ""))}
    link = found.pop(_LINK, None)
    kept = {name: _renamed(value, prefix) for name, value in found.items() if name in _ATTRIBUTES}
    if "id" in kept:
        kept["id"] = f"{prefix}{kept['id']}"
    if link is not None and link.startswith("#"):
        kept["href"] = f"#{prefix}{link[1:]}"
    elif link is not None and _IMAGE.fullmatch(link):
        kept["href"] = link
    element.attrib.clear()
    element.attrib.update(kept)


def _renamed(value: str, prefix: str) -> str:
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", value)


def _attributes_of(style: str) -> dict[str, str]:
    """Returns the attributes that stand for a style; ``font`` is taken apart."""
    found: dict[str, str] = {}
    for part in re.split(r";(?=(?:[^']*'[^']*')*[^']*$)", style):
        name, colon, value = (text.strip() for text in part.partition(":"))
        if not colon:
            continue
        short = re.fullmatch(r"(?P<words>[\w ]*?)(?P<size>[\d.]+px) (?P<family>.+)", value) if name == "font" else None
        if short is not None:
            found |= {"font-size": short["size"], "font-family": short["family"]}
            found |= {"font-weight": "bold"} if "bold" in short["words"] or "700" in short["words"] else {}
            found |= {"font-style": "italic"} if "italic" in short["words"] else {}
        else:
            found[name] = value
    return found

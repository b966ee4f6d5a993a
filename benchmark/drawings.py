"""SVG files to drawings inside a page whose policy lets no style attribute and no foreign thing through.

Style attributes become presentation attributes, ids are renamed so that no two drawings share one, paths that several
drawings define alike (letters, above all) stand in the page once, and numbers lose the digits that no eye sees. Black
and white become the page's own ink and paper, so that drawings follow it into the dark; those that hold a picture,
whose colours mean something beside black and white, stay as they are on a light plate.
"""

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from wavbench.upstream.errors import UserError

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
SHAPES = {"svg", "g", "defs", "path", "use", "clipPath", "rect", "circle", "ellipse", "line", "polyline", "polygon"}
SHAPES |= {"image", "pattern", "linearGradient", "radialGradient", "stop", "text", "tspan"}
LEFT_OUT = {"metadata", "style", "title", "desc"}  # elements that draw nothing; what `style` says is in ROOT
ROOT = {"stroke-linejoin": "round", "stroke-linecap": "butt"}  # matplotlib's style of everything
LOOKS = {"fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-linecap"}
LOOKS |= {"stroke-linejoin", "stroke-dasharray", "stroke-dashoffset", "stroke-miterlimit", "opacity", "clip-path"}
LOOKS |= {"clip-rule", "image-rendering", "stop-color", "stop-opacity", "font-size", "font-family", "font-weight"}
LOOKS |= {"font-style", "text-anchor", "display", "visibility"}
PLACES = {"d", "transform", "x", "y", "x1", "y1", "x2", "y2", "width", "height", "r", "cx", "cy", "rx", "ry", "points"}
PLACES |= {"viewBox", "preserveAspectRatio", "patternUnits", "patternTransform", "gradientUnits", "gradientTransform"}
PLACES |= {"offset", "dx", "dy", "fx", "fy", "clipPathUnits"}
NOT_INHERITED = {"opacity", "clip-path", "display"}
THEMED = {"#000000": "var(--ink)", "black": "var(--ink)", "#ffffff": "var(--paper)", "white": "var(--paper)"}
THEMED |= {"#696969": "var(--faint)", "#808080": "var(--faint)"}  # what is black on white in print

FONT = "DejaVu Sans,Verdana,sans-serif"  # matplotlib's, one of the same widths, any
EM = 100  # units of a letter's size, which matplotlib scales
WIDTHS = {"i": 28, "j": 28, "l": 28, "t": 39, "f": 35, "r": 41, ")": 39, "]": 39, " ": 32, "m": 97, "w": 82, "%": 95}
WIDTH = 61  # units of other letters, about: nearly right for the last letter of a text is good enough
FITTED = 4  # letters up to which a text keeps the widths of the reader's font

_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_MOVED = re.compile(r"translate\(\s*(-?[\d.]+)[\s,]+(-?[\d.]+)\s*\)")
_SCALED = re.compile(r"(.*?)\s*scale\(([\d.]+) -([\d.]+)\)")
_DOT = re.compile(r"M[-\d. ]*")  # a path that goes nowhere
_LOCAL = re.compile(r"url\(\s*#([\w.%-]+)\s*\)")
_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]+")


class Drawings:
    """Drawings of one page: `add` each file, then put `shared` into the page as well."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}  # ids of paths in the page by what they are
        self._used: set[str] = set()
        self._count = 0

    def add(self, file: Path, words: str) -> str:
        """A file as an element of HTML.

        Args:
            file: SVG as matplotlib writes it.
            words: what it shows, for those who cannot see it.

        Raises:
            UserError: it holds something else than a plain drawing.
        """
        text = file.read_bytes()
        try:
            parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
            root = None if b"<!ENTITY" in text else ET.fromstring(text, parser)
        except ET.ParseError:
            root = None
        if root is None or root.tag != f"{SVG}svg":
            raise _no_drawing(file, "its text is no SVG, or defines entities")
        prefix = f"f{self._count}"
        self._count += 1
        ids = _Ids(prefix, set(_asked_for(root)))
        return "".join(_Writer(file, ids, self._paths, self._used).write(root, words))

    @property
    def shared(self) -> str:
        """The paths that drawings have in common."""
        known = self._paths.items()
        paths = "".join(f'<path id="{id}" {attributes}/>' for attributes, id in known if id in self._used)
        return f'<svg class="shared" width="0" height="0" aria-hidden="true"><defs>{paths}</defs></svg>'


class _Ids:
    """Names for the ids of one drawing that are asked for; the others are dropped."""

    def __init__(self, prefix: str, wanted: set[str]) -> None:
        self.wanted = wanted
        self._prefix, self._known = prefix, {}

    def __getitem__(self, id: str) -> str:
        return self._known.setdefault(id, f"{self._prefix}-{len(self._known)}")

    def __setitem__(self, id: str, shared: str) -> None:
        self._known[id] = shared


class _Writer:
    def __init__(self, file: Path, ids: _Ids, paths: dict[str, str], used: set[str]) -> None:
        self.file, self.ids, self.paths, self.used = file, ids, paths, used
        self.colours: dict[str, str] = THEMED

    def write(self, root: ET.Element, words: str) -> Iterator[str]:
        plate = root.find(f".//{SVG}image") is not None
        self.colours = {} if plate else THEMED
        self._share(root)
        own = {name: root.get(name, "") for name in ("viewBox", "width", "height")}
        box = own["viewBox"] or f"0 0 {own['width']} {own['height']}"
        looks = {"viewBox": box, "role": "img", "aria-label": words, "width": _pixels(own["width"])} | ROOT
        looks |= {"class": "plate"} if plate else {"fill": THEMED["black"]}
        looks["font-family"] = FONT
        given = _text({name: value for name, value in looks.items() if value})
        yield f"<svg {given}>"
        yield from self._inside(root, {})
        yield "</svg>"

    def _share(self, root: ET.Element) -> None:
        """Give paths that are only defined, not drawn, to the page: many drawings have the same."""
        for group in root.iter(f"{SVG}defs"):
            for path in list(group):
                if path.tag == f"{SVG}path" and path.get("id") in self.ids.wanted:
                    known = {name: value for name, value in self._attributes(path).items() if name != "id"}
                    self.ids[path.get("id")] = self.paths.setdefault(_text(known), f"p{len(self.paths)}")
                    group.remove(path)

    def _element(self, element: ET.Element, above: dict[str, str]) -> Iterator[str]:
        name = element.tag.removeprefix(SVG) if isinstance(element.tag, str) else ""
        if name in LEFT_OUT or not name:
            return
        if name not in SHAPES:
            raise _no_drawing(self.file, f"an element {name[:80]}")
        attributes = self._attributes(element)
        if name == "g":
            attributes |= self._common(element)
        attributes = {k: v for k, v in attributes.items() if above.get(k) != v or k in NOT_INHERITED}
        text = html.escape(element.text or "") if name in ("text", "tspan") else ""
        inherited = above | {k: v for k, v in attributes.items() if k in LOOKS}
        inside = text + "".join(self._inside(element, inherited))
        if (name in ("g", "defs") and not inside) or (name == "path" and _DOT.fullmatch(attributes.get("d", ""))):
            return
        if name == "g" and not attributes:
            yield inside
        else:
            given = _text(attributes)
            opened = f"<{name} {given}" if given else f"<{name}"
            yield f"{opened}>{inside}</{name}>" if inside else f"{opened}/>"
        if name in ("text", "tspan") and element.tail and element.tail.strip():
            yield html.escape(element.tail)

    def _inside(self, element: ET.Element, above: dict[str, str]) -> Iterator[str]:
        """The children, letters as the text that a comment before them tells."""
        said = ""
        for child in element:
            if child.tag is ET.Comment:
                said = html.unescape((child.text or "").strip(" "))
                continue
            written = self._letters(child, said) if said else ""
            said = ""
            if written:
                yield written
            else:
                yield from self._element(child, above)

    def _letters(self, group: ET.Element, said: str) -> str:
        """A group of letters as text of the same place, size and length; "" where it is none."""
        letters = [child for child in group if child.tag == f"{SVG}use"]
        scaled = _SCALED.fullmatch(group.get("transform", ""))
        others = [child for child in group if child.tag not in (f"{SVG}use", f"{SVG}defs")]
        joined = len(said) - len(letters)  # letters that are one with the next, as fi
        if not letters or others or not scaled or not 0 <= joined <= said.count("f") or "- -" in said:
            return ""
        attributes = self._attributes(group)
        place = _MOVED.fullmatch(scaled[1])
        attributes |= {"x": place[1], "y": place[2]} if place else {"transform": scaled[1]}
        attributes = {k: _short(k, v) for k, v in attributes.items() if k != "transform" or not place}
        attributes["font-size"] = _rounded(str(EM * float(scaled[2])))
        last = _MOVED.match(letters[-1].get("transform", ""))
        if last and len(said) > FITTED:
            width = (float(last[1]) + WIDTHS.get(said[-1], WIDTH)) * float(scaled[2])
            attributes["textLength"] = f"{width:.1f}"
        return f"<text {_text(attributes)}>{html.escape(said, quote=False)}</text>"

    def _common(self, group: ET.Element) -> dict[str, str]:
        """The looks that all marks of a group share, which the group can have in their place."""
        marks = [child for child in group if child.tag == f"{SVG}use"]
        if len(marks) < 2 or len(marks) < len(group):
            return {}
        first = self._attributes(marks[0])
        shared = {k: v for k, v in first.items() if k in LOOKS - NOT_INHERITED}
        for mark in marks[1:]:
            own = self._attributes(mark)
            shared = {k: v for k, v in shared.items() if own.get(k) == v}
        return shared

    def _attributes(self, element: ET.Element) -> dict[str, str]:
        """Attributes that are known to draw, with styles among them."""
        found = {}
        for given, value in element.attrib.items():
            name = given.removeprefix(XLINK)
            if name.lower().startswith("on"):
                raise _no_drawing(self.file, f"an attribute {name[:80]}")
            if name == "id":
                if value in self.ids.wanted:
                    found["id"] = self.ids[value]
            elif name == "href":
                found["href"] = self._reference(element, value)
            elif name == "style":
                pairs = (part.partition(":") for part in value.split(";"))
                found |= {k.strip(): self._look(v.strip()) for k, _, v in pairs if k.strip() in LOOKS}
            elif name in LOOKS:
                found[name] = self._look(value)
            elif name in PLACES:
                found[name] = _short(name, value)
        if element.tag == f"{SVG}use" and "transform" in found and not found.keys() & {"x", "y"}:
            moved = _MOVED.fullmatch(found["transform"])
            if moved:
                del found["transform"]
                found |= {axis: value for axis, value in zip("xy", moved.groups(), strict=True) if float(value)}
        return found

    def _look(self, value: str) -> str:
        if "url" in value.lower():
            local = _LOCAL.fullmatch(value)
            if not local:
                raise _no_drawing(self.file, "something from elsewhere")
            return f"url(#{self.ids[local[1]]})"
        return self.colours.get(value) or _rounded(value)

    def _reference(self, element: ET.Element, value: str) -> str:
        if element.tag == f"{SVG}image" and _PICTURE.fullmatch(value):
            return re.sub(r"\s", "", value)
        if element.tag != f"{SVG}image" and value.startswith("#"):
            self.used.add(self.ids[value[1:]])
            return f"#{self.ids[value[1:]]}"
        raise _no_drawing(self.file, "something from elsewhere")


def _asked_for(root: ET.Element) -> Iterator[str]:
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.removeprefix(XLINK) == "href" and value.startswith("#"):
                yield value[1:]
            yield from _LOCAL.findall(value)


def _short(name: str, value: str) -> str:
    """A place in hundredths of a point."""
    if name == "transform":
        return _MOVED.sub(lambda found: f"translate({_rounded(found[1])} {_rounded(found[2])})", value)
    if name == "d":
        value = re.sub(r"\s+", " ", value).strip()
        return re.sub(r" ?([A-Za-z]) ?", r"\1", _rounded(value))
    return _rounded(value)


def _rounded(value: str) -> str:
    return _NUMBER.sub(lambda found: _two_digits(float(found[0])), value)


def _two_digits(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _pixels(length: str) -> str:
    """A length in points as pixels, which HTML counts in; "" for any other."""
    points = re.fullmatch(r"([\d.]+)pt", length)
    return str(round(float(points[1]) * 4 / 3)) if points else ""


def _text(attributes: dict[str, str]) -> str:
    return " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())


def _no_drawing(file: Path, why: str) -> UserError:
    return UserError("a figure is no plain drawing", where=file, why=f"it holds {why}", remedy="make the report again")

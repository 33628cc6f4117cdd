"""A sheet to draw on: boxes, arrows, words and small pictures, as SVG text that is the same wherever it is made."""

from dataclasses import dataclass, field
from typing import Any, Literal
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

Anchor = Literal["start", "middle", "end"]
LIGHT = {
    "ground": "#ffffff",
    "ink": "#1d1c24",
    "soft": "#5a5766",
    "line": "#c9c6d2",
    "card": "#f6f5f1",
    "you": "#3d3aa8",
    "alice": "#0b6e64",
    "bob": "#9c4a1c",
    "provider": "#7a3b78",
    "owner": "#4d5b1f",
}
DARK = {
    "ground": "#16161c",
    "ink": "#eeedf4",
    "soft": "#aeabbd",
    "line": "#4a4858",
    "card": "#20202a",
    "you": "#b3b1ff",
    "alice": "#56d6c5",
    "bob": "#f2a274",
    "provider": "#e3a5e0",
    "owner": "#c5d68a",
}
_SHADES = 8


@dataclass
class Sheet:
    """`colours` maps names to colours; every method below takes names. Units are pixels."""

    width: int
    height: int
    title: str
    colours: dict[str, str]
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        colour: str = "ink",
        size: float = 15,
        anchor: Anchor = "start",
        bold: bool = False,
        mono: bool = False,
    ) -> None:
        """One line; y is its baseline."""
        style = f' class="{" ".join(["m"] * mono + ["b"] * bold)}"' if mono or bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{self.colours[colour]}" text-anchor="{anchor}"'
            f"{style}>{escape(words)}</text>"
        )

    def lines(self, x: float, y: float, *lines: str, leading: float = 20, **style: Any) -> None:
        for index, words in enumerate(lines):
            self.text(x, y + index * leading, words, **style)

    def box(self, x: float, y: float, width: float, height: float, colour: str, *, filled: bool = True) -> None:
        fill = self.colours["card"] if filled else "none"
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="10" fill="{fill}" '
            f'stroke="{self.colours[colour]}" stroke-width="1.6"/>'
        )

    def bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="3" fill="{self.colours[colour]}"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = "line", *, dashed: bool = False) -> None:
        dashes = ' stroke-dasharray="4 5"' if dashed else ""
        self.parts.append(
            f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{self.colours[colour]}" stroke-width="1.6"{dashes}/>'
        )

    def arrow(self, x1: float, y1: float, x2: float, y2: float, colour: str = "soft", *, both: bool = False) -> None:
        start = f' marker-start="url(#{colour}-back)"' if both else ""
        self.parts.append(
            f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{self.colours[colour]}" stroke-width="2" fill="none" '
            f'marker-end="url(#{colour})"{start}/>'
        )

    def pixels(self, x: float, y: float, side: float, values: npt.NDArray[np.uint8], colour: str) -> None:
        """A square picture (n, n): the darker, the larger."""
        n, cell = len(values), side / len(values)
        shades = values.astype(np.int64) * (_SHADES + 1) // 256
        drawn = []
        for shade in range(1, _SHADES + 1):
            cells = "".join(f"M{column} {row}h1v1h-1z" for row, column in np.argwhere(shades == shade))
            if cells:
                drawn.append(f'<path opacity="{shade / _SHADES:g}" d="{cells}"/>')
        self.parts.append(
            f'<g transform="translate({x:g} {y:g}) scale({cell:g})" fill="{self.colours[colour]}" '
            f'shape-rendering="crispEdges">{"".join(drawn)}</g>'
            f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" fill="none" '
            f'stroke="{self.colours["line"]}"/>'
        )
        assert n == values.shape[1]  # noqa: S101  pictures are square

    def svg(self) -> str:
        markers = "".join(
            f'<marker id="{name}{suffix}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" '
            f'orient="{orient}"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
            for name, colour in self.colours.items()
            for suffix, orient in (("", "auto"), ("-back", "auto-start-reverse"))
            if f"url(#{name}{suffix})" in "".join(self.parts)
        )
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img">\n<title>{escape(self.title)}</title>\n'
            "<style>text{font-family:system-ui,-apple-system,'Segoe UI',Inter,'DejaVu Sans',sans-serif}"
            ".m{font-family:ui-monospace,'SF Mono',Menlo,'DejaVu Sans Mono',monospace}.b{font-weight:650}</style>\n"
            f"<defs>{markers}</defs>\n"
            f'<rect width="{self.width}" height="{self.height}" rx="12" fill="{self.colours["ground"]}"/>\n'
            f"{body}\n</svg>\n"
        )

"""A hook of mkdocs: a notebook becomes a section of the page that links to it, with the outputs that lie in it.

Where a paragraph of a page is one link to a notebook, the site shows the notebook below that link. It is rendered as
Markdown, so that the theme's own code blocks, search and checks of links hold for it too, and nothing is fetched from
elsewhere. Where no site is built, the link leads to the notebook itself.
"""

import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.pages import Page

_LINK = re.compile(r"^\[.+\]\((tutorials/[\w-]+\.ipynb)\)$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """The page's text with each linked notebook in it. A notebook's links start one folder below the page's."""
    folder = Path(page.file.abs_src_path or "").parent
    return _LINK.sub(lambda link: f"{link[0]}\n{{ .download }}\n\n{section(folder / link[1])}", markdown)


def section(notebook: Path) -> str:
    """The notebook as Markdown, one level of headings deeper than it has them."""
    cells = nbformat.read(notebook, as_version=4).cells  # type: ignore[no-untyped-call]
    return "\n\n".join(part for cell in cells for part in _cell(cell))


def _cell(cell: nbformat.NotebookNode) -> list[str]:
    if cell.cell_type == "markdown":
        return [re.sub(r"^#", "##", cell.source, flags=re.MULTILINE).replace("](../", "](")]
    return [_fenced("python", cell.source), *(_output(output) for output in cell.outputs)]


def _output(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return _fenced("text .output", output.text)
    if "image/png" in output.get("data", {}):
        return f'<img class="output" alt="" src="data:image/png;base64,{output.data["image/png"].strip()}">'
    text = output.data["text/plain"] if "data" in output else f"{output.ename}: {output.evalue}"
    return _fenced("text .output", text)


def _fenced(language: str, text: str) -> str:
    return f"``` {{ .{language} }}\n{text.rstrip()}\n```"

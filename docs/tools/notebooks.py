"""A hook of mkdocs: each notebook becomes a page of the same name, with the outputs that lie in it.

Rendered as Markdown, so that the theme's own code blocks, search and checks of links hold for notebooks too, and
nothing is fetched from elsewhere. The notebook itself stays beside its page, to be downloaded.
"""

import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for file in [one for one in files if one.src_uri.endswith(".ipynb")]:
        assert file.abs_src_path is not None  # noqa: S101  a file of the folder
        page = page_of(Path(file.abs_src_path))
        files.append(File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=page))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A link to a notebook leads to its page; a link with a title, as the one for downloading, to the file."""
    return re.sub(r"\.ipynb\)", ".md)", markdown)


def page_of(notebook: Path) -> str:
    """The notebook as Markdown."""
    cells = nbformat.read(notebook, as_version=4).cells  # type: ignore[no-untyped-call]
    parts = [part for cell in cells for part in _cell(cell)]
    download = f'[:material-notebook-outline: This page as a notebook]({notebook.name} "download")\n{{ .download }}'
    return "\n\n".join([parts[0], download, *parts[1:]])


def _cell(cell: nbformat.NotebookNode) -> list[str]:
    if cell.cell_type == "markdown":
        return [cell.source]
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

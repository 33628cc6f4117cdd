"""A hook of mkdocs: what the theme leaves unnamed gets a name, for who does not see it."""

from typing import Any


def on_post_page(output: str, **_: Any) -> str:
    return output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )

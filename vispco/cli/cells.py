"""Text from files, paths and models in the tables and lines that rich prints."""

from rich.text import Text

from vispco.saying import plain


def cell(text: str) -> Text:
    """The text as it is: brackets in it are no markup, and nothing in it reaches the terminal as an instruction."""
    return Text(plain(text))

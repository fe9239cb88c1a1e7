"""Tasks: how a row of a table becomes a prompt with a reference answer."""

import string
from collections import Counter
from dataclasses import dataclass

from vispco.data.samples import Row, Sample
from vispco.errors import ConfigError

FIELDS = ("question", "hint", "options")
"""What a template may name."""


@dataclass(frozen=True)
class Task:
    """Turns rows into samples.

    Parameters
    ----------
    prompt : str
        Template of the prompt; may name ``{question}``, ``{hint}`` and ``{options}``. The last two end with a newline
        if the row has any, and are empty otherwise; options are one per line, ``A. text``.

    Raises
    ------
    ConfigError
        If the template names something else, or not the question.
    """

    prompt: str = "{question}"

    def __post_init__(self) -> None:  # noqa: D105
        shown = f"data.prompt = {self.prompt!r}"
        try:
            named = {name for _, name, _, _ in string.Formatter().parse(self.prompt) if name is not None}
        except ValueError as error:
            raise ConfigError(f"{shown}: {error}; write a brace as {{{{ or }}}}") from None
        for name in sorted(named - set(FIELDS)):
            raise ConfigError(f"{shown} names {{{name}}}; name {{question}}, {{hint}} or {{options}}")
        if "question" not in named:
            raise ConfigError(f"{shown} does not name {{question}}; without it there is nothing to ask")

    def sample(self, row: Row, index: str | None = None) -> Sample:
        """The sample of a row; its reference answer is the most frequent one, the first of them in a tie."""
        options = "".join(f"{letter}. {text}\n" for letter, text in row.options.items())
        hint = f"{row.hint}\n" if row.hint else ""
        return Sample(
            index=row.index if index is None else index,
            picture=row.picture,
            question=self.prompt.format(question=row.question, hint=hint, options=options),
            answer=Counter(row.answers).most_common(1)[0][0],
            slice=row.slice,
            split=row.split,
            answers=row.answers,
            options=tuple(row.options.items()),
        )

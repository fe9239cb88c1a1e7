"""Multiple choice, read strictly; A-OKVQA, SEED-Bench-IMG, MMBench and ScienceQA.

The official numbers are accuracies: 1 if the chosen option is the reference (A-OKVQA, arXiv 2206.01718; SEED-Bench,
arXiv 2307.16125; MMBench, arXiv 2307.06281; ScienceQA, arXiv 2209.09513). What differs between code bases is how the
option is found in an answer. Here an answer is

* a letter of the options in upper case: ``A``, ``(A)``, ``A.``, ``A)`` or ``A:``;
* the text of one option, but for case and a final full stop;
* a letter in brackets, or with a mark or a line break behind it, and then words: ``A. a cat``. They must not be the
  text of another option, nor have the letter of one in them;
* any of these after ``answer is``, ``answer:`` and the same with *option* and *choice*; what comes before is passed
  over, and several of these must agree.

All else cannot be parsed, counts as wrong, and its share is reported: ``cat`` is not T, and ``A cat is on the mat`` is
not A. Nothing is guessed, and no other model is asked.
"""

import re
from collections.abc import Mapping, Sequence

from vispco.data.samples import Sample
from vispco.data.scorers.base import Scorer, refusal, share
from vispco.data.scorers.exact_match import plain

_LEAD = re.compile(r"\b(?:answer|option|choice)(?:\s+is\b\s*:?|\s*:)", re.IGNORECASE)
_LETTER = re.compile(
    r"(?P<open>\()?(?P<letter>[A-Z])(?(open)\))(?P<mark>[.):]?)(?:(?P<gap>\s+)(?P<words>\S.*))?\Z", re.DOTALL
)
# An A before a word is an article.
_LONE = re.compile(r"\b(?:A\b(?!\s+\w)|[B-Z]\b)")


class Options(Scorer):
    """1 if the answer names the option that is the reference."""

    def score(self, prediction: str, sample: Sample) -> float:
        """0 or 1."""
        said = read_option(prediction, dict(sample.options))
        return float(said is not None and said == sample.answer.strip())

    def totals(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """``unparsed``, the share of answers that name no option, or several."""
        if not samples:
            return {}
        return {
            "unparsed": share(
                [
                    read_option(prediction, dict(sample.options)) is None
                    for prediction, sample in zip(predictions, samples, strict=True)
                ]
            )
        }

    def check(self, sample: Sample) -> None:
        """Refuses questions without options, and references that are no letter of them."""
        if not sample.options:
            raise refusal(sample, "it has no options", "give columns A, B, ...")
        letters = [letter for letter, _ in sample.options]
        if sample.answer.strip() not in letters:
            raise refusal(sample, f"its reference answer is {sample.answer!r}", f"give one of {', '.join(letters)}")


def read_option(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer names; None if it names none, or several.

    Parameters
    ----------
    answer : str
    options : mapping of str to str
        Texts of the options by their letters.
    """
    answer = answer.replace("**", "").strip()
    whole = _claim(answer, options)
    if whole is not None:
        return whole
    claims = {_claim(part.strip(), options) for part in _LEAD.split(answer)[1:]}
    return claims.pop() if len(claims) == 1 else None


def _claim(text: str, options: Mapping[str, str]) -> str | None:
    form = _LETTER.match(text)
    letter = form["letter"] if form and form["letter"] in options else None
    if form and letter and not form["words"]:
        return letter
    named = _with_text(text, options)
    if named:
        return named[0] if len(named) == 1 else None
    if not form or not letter or not (form["open"] or form["mark"] or "\n" in form["gap"]):
        return None
    named = _with_text(form["words"], options)
    if named:
        return letter if letter in named else None
    others = {found for found in _LONE.findall(form["words"]) if found in options}
    return letter if others <= {letter} else None


def _with_text(text: str, options: Mapping[str, str]) -> list[str]:
    """Letters of the options that have this text."""
    said = plain(text)
    return [letter for letter, own in options.items() if said and plain(own) == said]

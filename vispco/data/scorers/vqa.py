"""Soft accuracy over the answers of ten people; VizWiz and TextVQA.

Antol et al., arXiv 1505.00468, ``vqaEval.py`` of GT-Vision-Lab/VQA: an answer that m of the others gave is worth
``min(1, m / 3)``, averaged over the n ways to leave one person out. Of n = 10 people that is 0, 0.3, 0.6, 0.9 and 1 for
0, 1, 2, 3 and 4 or more equal answers. The same mean is taken of fewer people; below four it cannot reach 1.

Texts are compared in a normal form, of which there are two:

``vqa``
    The one of VQA v2, which VizWiz (arXiv 1802.08218) took over. Line breaks and tabs become spaces. A mark of
    :data:`MARKS` goes if a space stands beside it anywhere in the text, or if the text has a comma between digits; if
    not, it becomes a space. A full stop goes unless a digit follows. Words become lower case, *none* and *zero* to
    *ten* become digits, articles go, and contractions get their apostrophe back.
``evalai``
    The one of TextVQA (arXiv 1904.08920), ``EvalAIAnswerProcessor`` of MMF. Before all that, the text becomes lower
    case, commas and question marks go, and ``'s`` becomes a word of its own. lmms-eval takes it for VizWiz as well.

The released code of VQA compares raw texts where all ten people agree word for word, so that *Yes* would be wrong for
ten times *yes*; its definition on visualqa.org has no such exception, and neither have we. The released code also stops
after 32 full stops, by a slip.
"""

import re
from collections.abc import Callable

from vispco.data.samples import Sample
from vispco.data.scorers.base import PerSample, refusal
from vispco.errors import ConfigError

MARKS = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}

# What has lost one of these apostrophes gets it back. Words that mean something without it (its, well, id) are missing.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the other way round in the original


class SoftAccuracy(PerSample):
    """Share of the people that agree, counted in full from three on.

    Parameters
    ----------
    normal_form : str
        ``vqa`` or ``evalai``.

    Raises
    ------
    ConfigError
        If the form is another one.
    """

    def __init__(self, normal_form: str = "vqa"):
        if normal_form not in NORMAL_FORMS:
            raise ConfigError(
                f"data.scorer_params.normal_form = {normal_form!r} is unknown; choose one of {', '.join(NORMAL_FORMS)}"
            )
        self.normal_form = NORMAL_FORMS[normal_form]

    def score(self, prediction: str, sample: Sample) -> float:
        """0..1."""
        said = self.normal_form(prediction)
        if not said and not any(map(str.isalnum, prediction)):  # an article has an empty normal form, and may be right
            return 0.0
        people = len(sample.references)
        equal = sum(self.normal_form(reference) == said for reference in sample.references)
        if not equal:
            return 0.0
        return (equal * min(1.0, (equal - 1) / 3) + (people - equal) * min(1.0, equal / 3)) / people

    def check(self, sample: Sample) -> None:
        """Refuses fewer than four answers, of which no answer could score 1."""
        if len(sample.references) < 4:
            raise refusal(
                sample,
                f"it has {len(sample.references)} reference answer(s), and soft accuracy is over those of ten people",
                "give at least 4 of them as a list",
            )


def vqa(text: str) -> str:
    """Normal form of VQA v2."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    number = re.search(r"\d,\d", text)
    gone = {ord(mark): "" if number or f"{mark} " in text or f" {mark}" in text else " " for mark in MARKS}
    text = re.sub(r"\.(?!\d)", "", text.translate(gone))
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def evalai(text: str) -> str:
    """Normal form of TextVQA."""
    return vqa(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


NORMAL_FORMS: dict[str, Callable[[str], str]] = {"vqa": vqa, "evalai": evalai}

"""The model ``vispco`` of lmms-eval: any of its tasks scores a pruning configuration.

Written against lmms-eval 0.7.3, whose simple models get a context, settings for ``generate`` and images per request.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image

from vispco.config import PruningConfig
from vispco.engine import fingerprint, load_checkpoint, prune
from vispco.engine.placing import device_of
from vispco.errors import ConfigError, DataError
from vispco.evaluation import generate_texts, prompt_text

NEW_TOKENS = 1024
"""Length of an answer where the task does not say."""
PLACEHOLDER = "<image>"
"""Where some tasks show images in their text; here they come first, as the chat template places them."""


class Vispco(lmms):  # type: ignore[misc]
    """A checkpoint under a pruning configuration, or unpruned to compare with.

    Parameters
    ----------
    pretrained : str
        Folder, name on the hub, or name of an embedded checkpoint.
    config : str or None
        JSON file of ``vispco export``; unpruned if None.
    revision, dtype, attention, device_map
        See :func:`vispco.engine.load_checkpoint`.
    batch_size : int
    max_batch_size : int or None
        Of lmms-eval's own batch finder, which is not used.
    device : str or None
        Device of the command line, where there is no ``device_map``.

    Raises
    ------
    InputError
        If an argument, the configuration or the checkpoint cannot be used.
    """

    def __init__(
        self,
        pretrained: str,
        config: str | None = None,
        revision: str | None = None,
        dtype: str = "float32",
        attention: str = "sdpa",
        device_map: str | None = None,
        batch_size: int = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(f"batch_size={batch_size} is no whole number of at least 1; give one")
        if revision is not None and not isinstance(revision, str):
            raise ConfigError(f"lmms-eval reads revision={revision} as a number; give the whole commit")
        self.batch_size = int(batch_size)
        self.config = None if config is None else PruningConfig.load(config)
        self.model, self.processor = load_checkpoint(pretrained, dtype, attention, revision, device_map or device)
        self.device = device_of(self.model)  # lmms-eval asks for it after it has taken the model away
        if self.config is not None:
            self._check(self.config)

    def _check(self, config: PruningConfig) -> None:
        """Refuse a configuration for another model, and warn of one for other weights."""
        with prune(self.model, config):
            pass
        made_for, found = config.model.fingerprint, fingerprint(self.model)
        if made_for and made_for != found:
            warnings.warn(
                f"the configuration was made for weights {made_for} ({config.model.name}), these are {found}: another "
                "dtype or another checkpoint, on which its measured costs and quality need not hold",
                stacklevel=3,
            )

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests; greedy unless a task sets a temperature above 0."""
        answers = [""] * len(requests)
        with torch.no_grad(), prune(self.model, self.config) if self.config else nullcontext():
            for indices, prompts, pictures, settings in self._batches(requests):
                said = generate_texts(self.model, self.processor, prompts, pictures, **_options(settings))
                for index, text in zip(indices, said, strict=True):
                    answers[index] = _cut(text, settings.get("until") or ()).strip()
                    context = requests[index].args[0]
                    self.cache_hook.add_partial("generate_until", (context, settings), answers[index])
        return answers

    def _batches(
        self, requests: Sequence[Instance]
    ) -> Iterator[tuple[list[int], list[str], list[list[Image.Image]], dict[str, Any]]]:
        """Requests with equal settings together, those with images apart from those without."""
        groups: dict[str, list[tuple[int, str, list[Image.Image]]]] = defaultdict(list)
        settings: dict[str, dict[str, Any]] = {}
        for index, request in enumerate(requests):
            context, asked, visuals_of, row, task, split = request.args
            pictures = _pictures(visuals_of(self.task_dict[task][split][row]), f"{task} {row}")
            question = context.replace(PLACEHOLDER, "").strip() if PLACEHOLDER in context else context
            key = repr((sorted(asked.items()), bool(pictures)))
            settings[key] = dict(asked)
            groups[key].append((index, prompt_text(self.processor, question, len(pictures)), pictures))
        for key, members in groups.items():
            for start in range(0, len(members), self.batch_size):
                indices, prompts, pictures_of = zip(*members[start : start + self.batch_size], strict=True)
                yield list(indices), list(prompts), list(pictures_of), settings[key]

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Not offered: what models return for it is not the same in lmms-eval."""
        raise NotImplementedError("vispco answers by `generate`; choose a task with output_type: generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Not offered: visual tokens are chosen once, in the first prefill."""
        raise NotImplementedError("vispco answers single rounds; choose a task with output_type: generate_until")


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``generate``."""
    options: dict[str, Any] = {"max_new_tokens": settings.get("max_new_tokens", NEW_TOKENS), "do_sample": False}
    if settings.get("num_beams") is not None:
        options["num_beams"] = settings["num_beams"]
    if settings.get("do_sample", True) and (settings.get("temperature") or 0) > 0:
        options |= {"do_sample": True, "temperature": settings["temperature"]}
        if settings.get("top_p") is not None:
            options["top_p"] = settings["top_p"]
    return options


def _cut(text: str, until: str | Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text


def _pictures(visuals: Any, where: str) -> list[Image.Image]:
    """Images of a request.

    Raises
    ------
    DataError
        If there is something else, such as a video.
    """
    pictures = list(visuals or ())
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise DataError(f"{where}: {type(picture).__name__} is no image; choose a task of images")
    return [picture.convert("RGB") for picture in pictures]

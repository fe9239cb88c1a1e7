"""Stand-ins for harnesses that are not installed: no more of them than our side of their interfaces touches."""

import importlib
import sys

LMMS_EVAL = {  # of lmms-eval 0.7.3
    "__init__.py": "",
    "api/__init__.py": "",
    "api/instance.py": """
from dataclasses import dataclass

@dataclass
class Instance:
    request_type: str
    arguments: tuple
    idx: int = 0

    @property
    def args(self):
        return self.arguments
""",
    "api/model.py": """
import abc

class lmms(abc.ABC):
    is_simple = True

    def __init__(self):
        self._rank = 0
        self._world_size = 1
        self.cache_hook = CacheHook(None)
        self.task_dict = {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    @property
    def rank(self):
        return self._rank

    @property
    def world_size(self):
        return self._world_size

class CacheHook:
    def __init__(self, cachinglm=None): ...

    def add_partial(self, attr, req, res): ...
""",
    "models/__init__.py": "",
    "models/registry_v2.py": """
from dataclasses import dataclass

@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple = ()
""",
}

VLMEVALKIT = {  # of VLMEvalKit on 2026-08-18
    "__init__.py": "",
    "vlm/__init__.py": "from vlmeval.vlm.base import BaseModel",
    "config.py": "supported_VLM = {}",
    "vlm/base.py": """
class BaseModel:
    INTERLEAVE = False
    allowed_types = ["text", "image", "video"]

    def __init__(self):
        self.dump_image_func = None

    def use_custom_prompt(self, dataset):
        return False

    def set_dump_image(self, dump_image_func):
        self.dump_image_func = dump_image_func

    def generate_inner(self, message, dataset=None):
        raise NotImplementedError

    def generate(self, message, dataset=None):
        for item in message:
            assert item["type"] in self.allowed_types, f"Invalid input type: {item['type']}"
        return self.generate_inner(message, dataset)
""",
}


def install(monkeypatch, folder, name, files):
    """A package of these files that goes before an installed one of the same name, until the test ends."""
    for path, text in files.items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_text(text)
    ours = f"vispco.integrations.{name}"
    for module in list(sys.modules):
        if module == ours or module.split(".")[0] == name:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    return [ours, name]


def forget(names):
    """Remove what was imported under these names, so that nothing keeps a stand-in."""
    for module in list(sys.modules):
        if any(module == name or module.startswith(name + ".") for name in names):
            del sys.modules[module]

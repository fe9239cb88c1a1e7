"""Opening the processor of a checkpoint, without torchvision too."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.import_utils import is_torchvision_available


def open_processor(folder: Path) -> Any:
    """The processor of a checkpoint, as ``AutoProcessor`` opens it.

    A processor that also takes videos needs torchvision for that part, and transformers refuses the whole of it where
    torchvision is not installed. Then it is opened for images alone.
    """
    how = {"local_files_only": True, "trust_remote_code": False}
    if not is_torchvision_available():
        config = AutoConfig.from_pretrained(folder, **how)
        kind: Any = PROCESSOR_MAPPING.get(type(config), None)
        if kind is not None and "video_processor" in kind.get_attributes():
            return images_only(kind).from_pretrained(folder, **how)
    return AutoProcessor.from_pretrained(folder, **how)


def images_only(kind: Any) -> Any:
    """A processor class without its video part; calls without videos never use it.

    It keeps its name, which ``save_pretrained`` writes down, so that what it saves opens as ``kind``.
    """

    class Images(kind):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

    Images.__name__ = Images.__qualname__ = kind.__name__
    return Images

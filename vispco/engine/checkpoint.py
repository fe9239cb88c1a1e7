"""Opening a checkpoint and telling it from others."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from vispco.config import ModelCard
from vispco.embedded import locate
from vispco.engine.compat import stable_name
from vispco.engine.families import check_supported, describe
from vispco.engine.processing import open_processor
from vispco.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_checkpoint(path: str, dtype: str = "float32", attention: str = "sdpa") -> tuple[Any, Any]:
    """Open a model and its processor as ``from_pretrained`` does, ready for evaluation.

    Parameters
    ----------
    path : str
        Folder of a checkpoint, or the name of an embedded one.
    dtype : str
        One of ``float32``, ``bfloat16``, ``float16``.
    attention : str
        Attention backend of the language model.

    Returns
    -------
    model, processor
        The model in evaluation mode, its parameters frozen; the processor pads on the left.

    Raises
    ------
    ModelError
        If the folder does not hold a supported vision-language model.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    folder = locate(path)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{path}: no checkpoint here (config.json is missing); give a folder of save_pretrained")
    try:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: config.json cannot be used ({_first_line(error)}); save it again") from None
    try:
        check_supported(kind)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    try:
        opened: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=DTYPES[dtype], attn_implementation=attention, local_files_only=True, output_loading_info=True
        )
        processor = open_processor(folder)
    except Exception as error:  # transformers, tokenizers and safetensors raise too many kinds to list
        raise ModelError(f"{path}: cannot be opened ({_first_line(error)}); save the checkpoint again") from None
    model, loading = opened
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelError(
            f"{path}: {len(missing)} weights are not in the checkpoint and would be random, the first is {missing[0]}; "
            "save the whole model"
        )
    describe(model)
    processor.tokenizer.padding_side = "left"
    return model.eval().requires_grad_(False), processor


def model_card(model: Any, name: str = "") -> ModelCard:
    """The identity of a model as stored in configurations and points."""
    return ModelCard(
        type=model.config.model_type,
        layers=len(describe(model).layers),
        name=name or str(Path(model.config._name_or_path).name),
        fingerprint=fingerprint(model),
    )


def fingerprint(model: Any) -> str:
    """Digest of every parameter's name, shape and up to 64 of its values, evenly spaced; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().flatten()
        step = max(1, len(flat) // 64)
        digest.update(f"{stable_name(name)}{tuple(tensor.shape)}".encode())
        digest.update(flat[::step][:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

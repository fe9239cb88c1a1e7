"""Opening a checkpoint and telling it from others."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from vispco.capacity import is_exhausted, shortage
from vispco.config import ModelCard
from vispco.engine.attention import check_backend
from vispco.engine.compat import stable_name
from vispco.engine.families import check_supported, describe
from vispco.engine.locating import find_checkpoint, first_line
from vispco.engine.placing import check_device_map, stored_weights
from vispco.engine.processing import open_processor
from vispco.errors import CapacityError, ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_checkpoint(
    path: str,
    dtype: str = "float32",
    attention: str = "sdpa",
    revision: str | None = None,
    device_map: str | None = None,
) -> tuple[Any, Any]:
    """Open a model and its processor as ``from_pretrained`` does, ready for evaluation.

    Code and pickles that a checkpoint brings along are never run or read.

    Parameters
    ----------
    path : str
        Folder of a checkpoint, the name of an embedded one, or ``org/name`` on the hub.
    dtype : str
        One of ``float32``, ``bfloat16``, ``float16``.
    attention : str
        Attention backend of the language model.
    revision : str or None
        Commit or tag of a checkpoint on the hub.
    device_map : str or None
        A device, or how accelerate spreads the model: ``auto``, ``balanced``, ``balanced_low_0``, ``sequential``. The
        CPU if None.

    Returns
    -------
    model, processor
        The model in evaluation mode, its parameters frozen; the processor pads on the left. Where it came from is in
        ``model.config._name_or_path``: the path, or ``org/name@commit``.

    Raises
    ------
    ModelError
        If there is no supported vision-language model, or it cannot be opened in this way.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    check_backend(attention)
    device_map = check_device_map(device_map)
    folder, name = find_checkpoint(path, revision)
    _check_files(folder, name)
    try:
        opened: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            attn_implementation=attention,
            device_map=device_map,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        processor = open_processor(folder)
    except Exception as error:  # transformers, tokenizers and safetensors raise too many kinds to list
        if is_exhausted(error):
            raise CapacityError(
                f"{name}: {shortage(error)} while it was opened; choose model.dtype=bfloat16, a smaller model or "
                "another model.device_map"
            ) from None
        raise ModelError(f"{name}: cannot be opened ({first_line(error)}); save the checkpoint again") from None
    model, loading = opened
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelError(
            f"{name}: {len(missing)} weights are not in the checkpoint and would be random, the first is {missing[0]}; "
            "save the whole model"
        )
    describe(model)
    model.config._name_or_path = name
    processor.tokenizer.padding_side = "left"
    return model.eval().requires_grad_(False), processor


def _check_files(folder: Path, name: str) -> None:
    """Refuse what is no whole supported model in safetensors, before anything else of it is opened."""
    try:
        kind = str(json.loads((folder / "config.json").read_text())["model_type"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{name}: config.json cannot be used ({first_line(error)}); save it again") from None
    try:
        check_supported(kind)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{name}: an adapter comes with it; save the model again after `merge_and_unload()`")
    if not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
        raise ModelError(
            f"{name}: only pickled weights (*.bin), which can run code when they are read; convert them to safetensors"
        )


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
    for name, tensor in stored_weights(model):
        flat = tensor.detach().flatten()
        step = max(1, len(flat) // 64)
        digest.update(f"{stable_name(name)}{tuple(tensor.shape)}".encode())
        digest.update(flat[::step][:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]

"""Good files of every kind that vispco reads, small, for a fuzzer to damage."""

import base64
import io
import json

import torch
from PIL import Image
from safetensors.torch import save
from tables import picture
from transformers import LlamaConfig

from vispco.cli.predicting import HEADER
from vispco.config import ModelCard, PruningConfig
from vispco.frontier import Point
from vispco.kernels import make_kernel
from vispco.search import Predictor

DECODER = LlamaConfig(
    hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64,
)  # fmt: skip
KEEP = (1.0, 0.5, 0.5, 0.125)
PROVENANCE = {"run": "a", "method": "learned", "seed": 0, "cost": "flops", "limits": {}, "versions": {"torch": "2.6"}}


def configurations():
    card = ModelCard(type="llava", layers=4, name="micro", fingerprint="0123456789abcdef")
    for selector, params in (("fastv", {}), ("mob", {"k": 0.3}), ("random", {"seed": 3})):
        yield PruningConfig(
            selector=selector, selector_params=params, keep=KEEP, model=card, budget=0.5,
            costs={"flops": 0.48, "kv": 0.4}, quality={"kl": 0.02, "score": 0.9}, provenance=PROVENANCE,
        )  # fmt: skip


def configuration_files():
    return [config.to_json().encode() for config in configurations()]


def points():
    shapes = [("unpruned", "unpruned", 1.0, 0.95), ("learned b=0.5", "learned", 0.48, 0.9), ("a", "grid", 0.3, 0.7)]
    shapes += [("random b=0.5", "control", 0.48, 0.6)]
    return [
        Point(
            name=name, method=method, selector="fastv", keep=KEEP if flops < 1 else (1.0,) * 4, split="test", seed=0,
            costs={"flops": flops, "kv": flops}, quality={"score": score, "kl": 1 - score}, samples=8,
            slices={"colour": score, "count": 0.5}, backend="sdpa", dtype="float32", model="m", prompt="p", data="d",
            basis={"latency": "x"},
        )
        for name, method, flops, score in shapes
    ]  # fmt: skip


def points_files():
    lines = [point.model_dump_json().encode() for point in points()]
    return [b"\n".join(lines) + b"\n", lines[0], b"\n".join(lines[:2])]


def frontier_files():
    record = {
        "schema_version": "1.0", "run": "a", "method": "learned", "search_split": "validation", "report_split": "test",
        "cost": "flops", "limits": {}, "configs": [config.model_dump(mode="json") for config in configurations()],
        "front": [point.model_dump(mode="json") for point in points()[:2]], "indicators": {"hypervolume": 0.5},
    }  # fmt: skip
    return [json.dumps(record, indent=2).encode()]


def run_configurations():
    text = (
        "seed: 0\nmodel:\n  path: micro-llava\nsearch:\n  name: learned\n  ladder: [0.5, 0.25]\ntracker: {name: none}\n"
    )
    return [text.encode()]


def latency_tables():
    def curve(*pairs):
        return {"tokens": [float(tokens) for tokens, _ in pairs], "seconds": [seconds for _, seconds in pairs]}

    kind = {
        "window": None, "whole": curve((16, 16.0), (300, 300.0)), "pruned": curve((4, 4.0), (14, 14.0), (300, 460.0)),
        "decode_whole": curve((16, 0.16), (340, 3.4)), "decode_pruned": curve((4, 0.08), (340, 6.8)),
    }  # fmt: skip
    table = {
        "schema_version": "1.0",
        "key": {
            "device": "abacus", "threads": 1, "dtype": "float32", "backend": "sdpa", "batch": 8, "torch": "2.13.0",
            "transformers": "5.23.0", "model": "llava", "parameters": 1000, "decoder": {"layers": 4, "hidden": 48},
        },
        "kinds": [kind, {**kind, "window": 8}], "layers": [0, 1, 0, 1], "outside": curve((20, 5.0), (300, 7.0)),
        "decode_outside": 0.5,
        "selectors": {"fastv": {"params": {}, "once": [0.25, 0.01], "cut": [1.0, 0.1, 0.2, 0.03, 0.04]}},
        "protocol": {"clock": "wall", "repeats": 5, "warm_up": 6, "spread": 0.03, "drift": 1.02},
    }  # fmt: skip
    return [json.dumps(table).encode()]


def tables_tsv():
    image, other = (base64.b64encode(picture(color=color)).decode() for color in ((1, 2, 3), (9, 9, 9)))
    rows = [
        ("index", "image", "image_path", "question", "answer", "A", "B", "hint", "category", "split"),
        ("1", image, "", "what ?", "['yes', 'no']", "one", "two", "look", "colour", "test"),
        ("2", "1", "", '"a ""quoted"" text"', "[1, 2, 30, 40]", "", "", "", "count", "validation"),
        ("3", "", "a.png", "which ?", "B", "x", "y", "", "", ""),
        ("4", f"['{other}']", "", "who ?", "me", "", "", "", "nan", "test"),
    ]
    return [
        "\n".join("\t".join(row) for row in rows).encode(),
        "\r\n".join("\t".join(row) for row in rows[:3]).encode(),
    ]


def tables_jsonl():
    image = base64.b64encode(picture()).decode()
    rows = [
        {"index": 1, "image": image, "question": "what ?", "answers": ["yes", "no"], "split": "test"},
        {"index": "2", "image": "a.png", "question": "q", "answer": "A", "options": ["x", "y"], "category": "c"},
        {"image_path": ["a.png"], "question": "q", "answer": 3, "options": {"A": "x"}, "hint": "h", "split": "test"},
        {"image": {"bytes": None, "path": "a.png"}, "question": "q", "answer": 0.5, "A": "x", "B": 2},
    ]
    return ["\n".join(map(json.dumps, rows)).encode()]


def tables_llava():
    talk = [{"from": "human", "value": "<image>\nwhat ?"}, {"from": "gpt", "value": "this"}]
    entries = [
        {"id": "1", "image": "a.png", "conversations": talk, "category": "c", "split": "test"},
        {"id": 2, "image": ["a.png"], "conversations": [*talk, *talk]},
        {"id": 3, "conversations": talk},
    ]
    return [json.dumps(entries).encode(), json.dumps(entries, indent=1).encode()]


def pictures():
    image = Image.radial_gradient("L").resize((12, 9))
    found = []
    for kind, mode, options in (
        ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "LA", {}), ("PNG", "I;16", {}), ("PNG", "1", {}),
        ("JPEG", "RGB", {}), ("JPEG", "CMYK", {"progressive": True}), ("JPEG", "L", {"exif": Image.Exif()}),
        ("GIF", "P", {"save_all": True, "append_images": [Image.new("P", (12, 9), 3)]}), ("BMP", "RGB", {}),
        ("BMP", "1", {}), ("PPM", "RGB", {}), ("PPM", "L", {}), ("TIFF", "RGB", {}),
        ("TIFF", "L", {"compression": "tiff_lzw"}), ("TIFF", "RGB", {"compression": "jpeg"}),
        ("TIFF", "1", {"compression": "group4"}), ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (12, 9), "red")]}),
    ):  # fmt: skip
        file = io.BytesIO()
        image.convert("L" if mode == "I;16" else mode).convert(mode).save(file, format=kind, **options)
        found.append(file.getvalue())
    return [*found, b"P3\n2 1\n255\n1 2 3 4 5 6\n", b"P1\n# a\n2 1\n1 0\n"]


def predictors():
    kernel = make_kernel("multistep", 4, 2)
    starts = torch.full((2, kernel.size), 0.5)
    predictor = Predictor(torch.tensor([0.4, 0.9]), starts, torch.ones(kernel.size))
    record = {
        "model": {"type": "llava", "layers": 4, "name": "micro", "fingerprint": ""}, "decoder": DECODER.to_dict(),
        "selector": "fastv", "selector_params": {}, "kernel": "multistep", "steps": 2, "knobs": [], "cost": "flops",
        "limits": {"kv": 0.9}, "tokens": [[6, 16, 1, 4], [7, 16, 1, 4]], "dtype": "float32", "new_tokens": 32,
        "table": None, "provenance": PROVENANCE,
    }  # fmt: skip
    tensors = {name: value.contiguous() for name, value in predictor.state_dict().items()}
    return [save(tensors, {HEADER: json.dumps(record)})]

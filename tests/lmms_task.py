"""A task of lmms-eval on files: what a user writes for data of their own."""

import json

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/documents.json
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visuals
doc_to_text: "{{{{question}}}}"
doc_to_target: "answer"
process_results: !function utils.process
generation_kwargs:
  max_new_tokens: 8
  temperature: 0
  do_sample: false
metric_list:
  - metric: exact
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

UTILS = """\
from PIL import Image


def visuals(document):
    return [Image.open(document["image"])]


def process(document, said):
    return {"exact": float(said[0] == document["answer"])}
"""


def write_task(folder, samples, name="shapes_world"):
    """The task ``name`` over the samples, in a folder for ``--include_path``."""
    documents = []
    for index, sample in enumerate(samples):
        sample.image.save(folder / f"{index}.png")
        image = str(folder / f"{index}.png")
        documents.append({"image": image, "question": sample.question, "answer": sample.answer})
    (folder / "documents.json").write_text(json.dumps(documents))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, folder=folder))
    (folder / "utils.py").write_text(UTILS)

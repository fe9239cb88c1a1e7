"""Compiled decoder layers give what plain ones give."""

from contextlib import contextmanager

import pytest
import torch
from composing import build, case_of, check_close, check_same, plain, run_pruned

from vispco import prune
from vispco.errors import ModelError
from vispco.testing.models import Sample


@contextmanager
def compiler():
    """A compiler that knows nothing yet, and fails where it would give up and run the plain layer."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
        yield
    assert compiled_graphs() > 0, "nothing was compiled"
    torch._dynamo.reset()


def compiled_graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def compile_layer(model, backend, in_place):
    """Compile the last layer but one, which drops tokens and scores those that are left."""
    layers = model.get_decoder().layers
    if in_place:
        layers[-2].compile(backend=backend)
    else:
        layers[-2] = torch.compile(layers[-2], backend=backend)


@pytest.mark.parametrize(
    ("family", "backend", "in_place"),
    [("llava", "aot_eager", False), ("llava", "eager", True), ("gemma3", "eager", False)],
)
def test_compiled_layer(family, backend, in_place):
    model = build(family)
    compile_layer(model, backend, in_place)
    with compiler():
        check_same(run_pruned(model, case_of(family)), plain(family))


@torch.no_grad()
def test_a_compiled_layer_runs_prompts_of_all_lengths():
    """It is compiled for a length, then for any length, and not for every prompt."""
    case, model = case_of("llava"), build("llava")
    prompts = [case.model.inputs([Sample(2, images, 9 - images, seed=images)]) for images in (1, 0, 3, 2, 4)]
    unpruned = [model(**prompt).logits for prompt in prompts]
    with prune(model, case.config()):
        expected = [model(**prompt).logits for prompt in prompts]
    compile_layer(model, "eager", in_place=True)
    graphs = []
    with compiler():
        with prune(model, case.config()):
            for prompt, logits in zip(prompts, expected, strict=True):
                check_close(model(**prompt).logits, logits)
                graphs.append(compiled_graphs())
        with prune(model, case.config((1.0,) * case.layers)):
            for prompt, logits in zip(prompts, unpruned, strict=True):
                check_close(model(**prompt).logits, logits)
    assert graphs[2] == graphs[-1], f"graphs after each prompt: {graphs}"


def test_a_model_compiled_as_a_whole_is_refused():
    compiled = torch.compile(build("llava"), backend="eager")
    with pytest.raises(ModelError, match=r"OptimizedModule cannot be pruned.*pass the LlavaFor.*compiled one by one"):
        run_pruned(compiled, case_of("llava"))

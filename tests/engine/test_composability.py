"""The engine among other things that are done to a model: compiled, spread, wrapped, copied, interrupted, checkpointed.

Whatever was done, the pruned model gives what the plain pruned model gives.
"""

import copy
import io
import itertools
import pickle
from contextlib import contextmanager
from functools import cache, partial

import accelerate
import peft
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from vispco import prune
from vispco.engine import Replay, observed_attention
from vispco.errors import ConfigError, ModelError
from vispco.selectors import Scorer, make_selector
from vispco.testing.conformance import SINGLE, Case
from vispco.testing.models import MODELS, RAGGED, Sample
from vispco.testing.selectors import SELECTORS

OPTIONS = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}

families = pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3"])


@cache
def case_of(family, samples=RAGGED):
    return Case(MODELS[family], SELECTORS["fastv"], samples=samples)


def build(family):
    """A model of its own, for tests that do something to it."""
    return MODELS[family].build()


@torch.no_grad()
def run(model, inputs):
    """Logits of one forward, logits of every step of decoding, and the text."""
    text = model.generate(**inputs, **OPTIONS)
    return model(**inputs).logits, torch.stack(text.logits), text.sequences


def run_pruned(model, case, inputs=None, keep=None):
    with prune(model, case.config(keep)):
        return run(model, inputs or case.inputs)


@cache
def stock(family, samples=RAGGED):
    return run(build(family), case_of(family, samples).inputs)


@cache
def plain(family, samples=RAGGED):
    """What a pruned model gives to which nothing else was done."""
    ours = run_pruned(build(family), case_of(family, samples))
    assert (ours[0] - stock(family, samples)[0]).abs().max() > 0.1, "the schedule changes too little to show anything"
    return ours


def check_close(ours, expected):
    assert float((ours - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def check_same(ours, expected):
    check_close(ours[0], expected[0])
    check_close(ours[1], expected[1])
    assert torch.equal(ours[2], expected[2])


def check_equal(ours, expected):
    """Bit by bit."""
    assert all(map(torch.equal, ours, expected))


# Compiled


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


# Spread over devices


class Devices(TorchFunctionMode):
    """Gives CPU tensors pretended devices, and refuses operations between two of them, as real devices do."""

    def __init__(self):
        super().__init__()
        self.moved = []  # kept, because accelerate tells tied weights by their addresses

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function == Tensor.device.__get__:
            return self.of(args[0])
        if function in (Tensor.to, Tensor.cpu):
            return self.move(*args, **({"device": "cpu"} if function is Tensor.cpu else kwargs))
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        known = [value for value in given if not torch._C._functorch.is_batchedtensor(value)]  # vmap makes new ones
        # Scalars and indices may be on the CPU.
        devices = {self.of(value) for value in known if value.dim()} or {self.of(value) for value in known}
        if function in (Tensor.__getitem__, Tensor.__setitem__) and self.of(args[0]).type != "cpu":
            devices -= {torch.device("cpu")}
        if len(devices) > 1:
            raise RuntimeError(f"{function.__name__} of tensors on {' and '.join(sorted(map(str, devices)))}")
        device = devices.pop() if devices else torch.device("cpu")
        if kwargs.get("device") is not None:
            device = torch.device(kwargs["device"])
            kwargs["device"] = "meta" if device.type == "meta" else "cpu"
        made = function(*args, **kwargs)
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and not any(value is other for other in given):
                value.pretended = device
        return made

    @staticmethod
    def of(value):
        return getattr(value, "pretended", torch.device("cpu"))

    def move(self, source, *args, device=None, **kwargs):
        """``Tensor.to``: a copy if the device is another one."""
        rest = []
        for value in args:
            if isinstance(value, (torch.device, str)):
                device = value
            elif isinstance(value, Tensor):
                device = self.of(value)
                rest.append(value.dtype)
            elif value is not None:
                rest.append(value)
        device = self.of(source) if device is None else torch.device(device)
        moved = source.to(*rest, **kwargs) if rest or kwargs else source
        if moved is source and device != self.of(source):
            moved = source.detach().clone()
            moved = nn.Parameter(moved, source.requires_grad) if isinstance(source, nn.Parameter) else moved
            self.moved.append(source)
        moved.pretended = device
        return moved


def device_map(model, main, *others):
    """Embeddings and head on ``main``, decoder layers on ``others`` in turn, all else on the first of these."""
    layers = list(model.get_decoder().layers)
    names = {}

    def place(module, prefix):
        for name, child in module.named_children():
            if child in layers:
                names[prefix + name] = others[layers.index(child) % len(others)]
            elif set(layers) & set(child.modules()):
                place(child, f"{prefix}{name}.")
            else:
                names[prefix + name] = main if name in ("embed_tokens", "rotary_emb", "lm_head") else others[0]
        names.update({prefix + name: main for name, _ in module.named_parameters(recurse=False)})

    place(model, "")
    return names


def dispatch(model, main, *others, **options):
    names = device_map(model, main, *others)
    return accelerate.dispatch_model(model, names, main_device=main, skip_keys="past_key_values", **options)


def test_pretended_devices_do_not_mix():
    with Devices():
        here, there = torch.ones(3, device="cuda:0"), torch.ones(3, device="cuda:1")
        assert here.device == torch.device("cuda:0")
        assert (here + here.sum()).device == here.device
        assert (here + there.to(here.device)).tolist() == [2, 2, 2]
        assert here[torch.tensor([1])].device == here.device
        assert here.new_zeros(3).device == here.device
        for wrong in (lambda: here + there, lambda: here + torch.ones(3), lambda: torch.ones(3)[here.long()]):
            with pytest.raises(RuntimeError, match="of tensors on"):
                wrong()


@families
@pytest.mark.parametrize("others", [("cuda:1", "cuda:0"), ("cuda:1", "cpu")])
@pytest.mark.parametrize(("inputs_at", "samples"), [("cpu", RAGGED), ("cuda:0", SINGLE)])
def test_layers_on_several_devices(family, others, inputs_at, samples):
    """Layers on another device than the embeddings, or fetched from the CPU when they run; with padding or without."""
    case = case_of(family, samples)
    with torch.no_grad(), Devices():
        model = dispatch(build(family), "cuda:0", *others)
        ours = run_pruned(model, case, {name: value.to(inputs_at) for name, value in case.inputs.items()})
        assert ours[0].device == torch.device(inputs_at)
        ours = [value.cpu() for value in ours]
    check_same(ours, plain(family, samples))


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.filterwarnings("ignore:.*targets follow dropped tokens")
def test_labels_on_another_device(spread):
    """accelerate moves all inputs to the main device, the loss moves labels; lost targets are left out all the same."""
    case, device = case_of("llava"), torch.device("cuda:0")
    labels = case.inputs["input_ids"]
    with torch.no_grad(), prune(plain_model := build("llava"), case.config()):
        expected = plain_model(**case.inputs, labels=labels).loss
    with torch.no_grad(), Devices():
        model, inputs = build("llava"), case.inputs
        if spread:
            model = dispatch(model, "cuda:0", "cuda:1", "cuda:0")
        else:
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.pretended = device
            inputs = {name: value.to(device) for name, value in inputs.items()}
        with prune(model, case.config()):
            loss = model(**inputs, labels=labels).loss.cpu()
    assert torch.equal(loss, expected)


@families
def test_replay_of_a_spread_model(family):
    """A search runs on a spread model too, with tokens dropped and with tokens weighted."""
    case = case_of(family)

    def replay(model, inputs):
        replay = Replay(model, make_selector("fastv", {}))
        with torch.no_grad(), observed_attention(replay.family):
            captured = replay.capture(inputs)
            rows = captured.query[:, None]
            ratios = torch.tensor([case.config().keep, (1.0, *(0.5,) * (case.layers - 1))], device=rows.device)
            relaxed = [replay.relaxed(captured, ratios, rows, temperature=0.1, hard=hard) for hard in (False, True)]
            return [value.cpu() for value in (replay.run(captured, case.config().keep, rows), *relaxed)]

    with Devices():
        model = dispatch(build(family), "cuda:0", "cuda:1", "cuda:0")
        ours = replay(model, {name: value.to("cuda:0") for name, value in case.inputs.items()})
    check_equal(ours, replay(build(family), case.inputs))


@families
def test_layers_on_disk(family, tmp_path):
    model = dispatch(build(family), "cpu", "cpu", "disk", offload_dir=str(tmp_path))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu", "meta"}
    check_same(run_pruned(model, case_of(family)), plain(family))
    check_same(run(model, case_of(family).inputs), stock(family))


def test_offloaded_weights():
    model = accelerate.cpu_offload(build("llava"), execution_device="cpu")
    check_same(run_pruned(model, case_of("llava")), plain("llava"))
    check_same(run(model, case_of("llava").inputs), stock("llava"))


# Wrapped by PEFT


def with_lora(model):
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"])).eval()


@families
def test_peft_model(family):
    wrapped = with_lora(build(family))
    run(wrapped, case_of(family).inputs)  # installs what stock models leave behind
    before = traces(wrapped)
    check_same(run_pruned(wrapped, case_of(family)), plain(family))
    assert traces(wrapped) == before
    check_same(run(wrapped, case_of(family).inputs), stock(family))


@families
def test_training_adapters(family):
    """At their start adapters change nothing, so the loss is that of the model alone; gradients reach every layer."""
    case, model, wrapped = case_of(family), build(family).train(), with_lora(build(family)).train()
    with torch.no_grad(), prune(model, case.config()):
        expected = model(**case.inputs, labels=answers(case)).loss
    with prune(wrapped, case.config()):
        loss = wrapped(**case.inputs, labels=answers(case)).loss
        loss.backward()
    torch.testing.assert_close(loss.detach(), expected, atol=1e-5, rtol=1e-5)
    for index, layer in enumerate(wrapped.get_base_model().get_decoder().layers):
        for projection in (layer.self_attn.q_proj, layer.self_attn.v_proj):
            assert projection.lora_B["default"].weight.grad.abs().max() > 0, f"no gradient in layer {index}"


def answers(case, number=4):
    """Labels: the last tokens of a left-padded batch."""
    labels = torch.full_like(case.inputs["input_ids"], -100)
    labels[:, -number:] = case.inputs["input_ids"][:, -number:]
    return labels


# Within one another


@pytest.mark.parametrize("outer", ["model", "adapters"])
@pytest.mark.parametrize("inner", ["model", "adapters"])
def test_nested_use_is_refused(outer, inner):
    """Under any wrapper; and the outer block goes on."""
    case, model = case_of("llava"), build("llava")
    either = {"model": model, "adapters": with_lora(model)}
    with prune(either[outer], case.config()):
        with pytest.raises(ModelError, match="already being pruned"), prune(either[inner], case.config()):
            pass
        check_same(run(either[outer], case.inputs), plain("llava"))
    check_same(run(model, case.inputs), stock("llava"))


def test_several_models_at_once():
    """Also of one class, with schedules of their own, in any order."""
    case, other = case_of("llava"), case_of("qwen3_vl")
    first, second, third = build("llava"), build("llava"), build("qwen3_vl")
    with prune(first, case.config()), prune(second, case.config((1.0,) * 4)), prune(third, other.config()):
        check_equal(run(third, other.inputs), plain("qwen3_vl"))
        check_equal(run(first, case.inputs), plain("llava"))
        check_equal(run(second, case.inputs), stock("llava"))
        check_equal(run(first, case.inputs), plain("llava"))


# Without a trace


def traces(model):
    """Hooks and attributes of all modules, and the attention backends."""
    modules = dict(model.named_modules())
    hooks = {
        (name, kind): list(value.values())
        for name, module in modules.items()
        for kind, value in vars(module).items()
        if "hook" in kind and isinstance(value, dict)
    }
    methods = {
        (name, kind): value
        for name, module in modules.items()
        for kind, value in vars(module).items()
        if callable(value)
    }
    attributes = {name: set(vars(module)) for name, module in modules.items()}
    configs = {name: module.config for name, module in modules.items() if hasattr(module, "config")}
    backends = {
        name: (config._attn_implementation, type(config._attn_implementation), set(vars(config)))
        for name, config in configs.items()
    }
    return hooks, methods, attributes, backends


@contextmanager
def unchanged(model, inputs):
    """The model is the same before and after, and computes the same bits."""
    logits = run(model, inputs)
    before = traces(model)
    yield
    assert traces(model) == before
    check_equal(run(model, inputs), logits)


def interrupt(module, error, call=0):
    """Raise an error at one of the calls of a module."""
    calls = itertools.count()

    def hook(*_):
        if next(calls) == call:
            raise error

    return module.register_forward_pre_hook(hook)


class Boom(Exception):
    pass


PLACES = {
    "vision tower": (lambda model: model.model.vision_tower, 0),
    "layer": (lambda model: model.get_decoder().layers[2], 0),
    "attention": (lambda model: model.get_decoder().layers[2].self_attn, 0),
    "head": (lambda model: model.lm_head, 0),
    "decoding": (lambda model: model.get_decoder().layers[2], 2),
}
"""Modules of a LLaVA, and the call of them at which generating is interrupted."""

places = pytest.mark.parametrize("place", PLACES)
errors = pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])


def test_no_trace_of_a_block():
    model, case = build("llava"), case_of("llava")
    with unchanged(model, case.inputs):
        run_pruned(model, case)
        model.zero_grad()


@places
@errors
def test_no_trace_of_an_interrupted_block(place, error):
    model, case = build("llava"), case_of("llava")
    find, call = PLACES[place]
    with unchanged(model, case.inputs):
        hook = interrupt(find(model), error, call)
        with pytest.raises(error):
            run_pruned(model, case)
        hook.remove()


@places
@errors
def test_a_block_goes_on_after_an_interrupted_call(place, error):
    model, case = build("llava"), case_of("llava")
    find, call = PLACES[place]
    with prune(model, case.config()):
        hook = interrupt(find(model), error, call)
        with pytest.raises(error):
            model.generate(**case.inputs, **OPTIONS)
        hook.remove()
        check_equal(run(model, case.inputs), plain("llava"))


@torch.no_grad()
def test_a_call_without_a_cache_that_was_interrupted_is_forgotten():
    """Decoding without a cache goes on from the step before; not from one that never ended."""
    model, case = build("llava"), case_of("llava")
    inputs, longer = one_token_more(case)
    with prune(model, case.config()):
        expected = model(**longer, use_cache=False).logits
    with prune(model, case.config()):
        hook = interrupt(model.get_decoder().layers[2], Boom)
        with pytest.raises(Boom):
            model(**inputs, use_cache=False)
        hook.remove()
        assert torch.equal(model(**longer, use_cache=False).logits, expected)


@torch.no_grad()
def test_one_token_more_without_a_cache_is_another_prompt():
    """Say, the same question about another image; only ``generate`` goes on with a prompt."""
    model, case = build("llava"), case_of("llava")
    inputs, longer = one_token_more(case)
    longer["pixel_values"] = -longer["pixel_values"]
    with prune(model, case.config()):
        expected = model(**longer, use_cache=False).logits
        model(**inputs, use_cache=False)
        assert torch.equal(model(**longer, use_cache=False).logits, expected)
        model.generate(**inputs, use_cache=False, max_new_tokens=1)
        assert torch.equal(model(**longer, use_cache=False).logits, expected)


def one_token_more(case):
    """Inputs, and the same ones with a token of text behind."""
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
    longer = {
        "input_ids": nn.functional.pad(ids, (0, 1), value=11),
        "attention_mask": nn.functional.pad(mask, (0, 1), value=1),
    }
    return case.inputs, {**case.inputs, **longer}


def test_no_trace_of_a_set_up_that_fails(monkeypatch):
    model, case = build("llava"), case_of("llava")

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.get_decoder().layers[2], "register_forward_pre_hook", fail)
    with unchanged(model, case.inputs):
        with pytest.raises(KeyboardInterrupt):
            run_pruned(model, case)
        with pytest.raises(ConfigError):
            run_pruned(model, case, keep=(0.5,) * case.layers)


def test_a_generate_of_the_callers_own_stays():
    model, case = build("llava"), case_of("llava")
    model.generate = own = partial(model.generate, max_new_tokens=2)
    with prune(model, case.config()):
        assert model.generate(**case.inputs, do_sample=False).shape[1] == case.inputs["input_ids"].shape[1] + 2
    assert model.generate is own


# Copied


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@families
@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, saved])
def test_a_copy_is_a_stock_model(family, duplicate):
    case, model = case_of(family), build(family)
    with prune(model, case.config()):
        twin = duplicate(model)  # before its first call, after which stock models cannot all be pickled
        backend = twin.get_decoder().config._attn_implementation
        assert (backend, type(backend)) == ("sdpa", str)
        assert twin.generate.__self__ is twin
        check_equal(run(twin, case.inputs), stock(family))
        check_equal(run_pruned(twin, case), plain(family))
        check_equal(run(model, case.inputs), plain(family))
    check_equal(run(twin, case.inputs), stock(family))
    check_equal(run(model, case.inputs), stock(family))


def test_a_copy_of_an_adapted_model_that_has_run():
    case, wrapped = case_of("llava"), with_lora(build("llava"))
    with prune(wrapped, case.config()):
        run(wrapped, case.inputs)
        twin = copy.deepcopy(wrapped)
        check_same(run(twin, case.inputs), stock("llava"))
        check_same(run_pruned(twin, case), plain("llava"))


@families
def test_a_saved_model_is_stock(family, tmp_path):
    case, model = case_of(family), build(family)
    with prune(model, case.config()):
        model.save_pretrained(tmp_path)
        assert "vispco" not in repr(copy.deepcopy(model.config).to_dict())
    assert not any("vispco" in file.read_text() for file in tmp_path.glob("*.json"))
    check_same(run(type(model).from_pretrained(tmp_path).eval(), case.inputs), stock(family))


# Checkpointed

HOOKS_RUN_AGAIN = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23)
"""Whether gradient checkpointing runs a layer again with the hooks on it, as older releases of transformers do."""


class Fickle(Scorer):
    """A selector that chooses other tokens when it is asked again."""

    needs = frozenset({"last_row"})

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def score(self, inputs):
        return inputs.last_row * torch.rand(inputs.last_row.shape, generator=self.generator)


@families
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(monkeypatch, family, reentrant):
    """Layers that run again in the backward pass run on the same tokens."""
    case, model = case_of(family), build(family).train().requires_grad_(True)
    monkeypatch.setattr("vispco.engine.pruning.make_selector", lambda *_: Fickle())
    runs = []
    model.get_decoder().layers[2].self_attn.register_forward_pre_hook(lambda *_: runs.append(1))

    def train():
        model.zero_grad()
        with prune(model, case.config()):
            loss = model(**case.inputs, labels=answers(case)).loss
            loss.backward()
        return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    checkpointing = {"use_reentrant": reentrant}
    if family == "qwen3_vl" and reentrant:
        if HOOKS_RUN_AGAIN:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
            with pytest.raises(ModelError, match="pass use_reentrant=False or freeze the vision tower"):
                train()
            model.gradient_checkpointing_disable()
            runs.clear()
        model.model.visual.requires_grad_(False)
    expected, gradients = train()
    assert len(runs) == 1
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    loss, ours = train()
    assert len(runs) == 3, "the layer did not run again"
    assert torch.equal(loss, expected)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        error = float((ours[name] - gradient).abs().max())
        assert error <= 1e-5 * max(1.0, float(gradient.abs().max())), f"gradient of {name} is off by {error:.2g}"

"""A copy of a model that is being pruned is a stock model."""

import copy
import io
import pickle

import pytest
import torch
from composing import (
    build,
    case_of,
    check_equal,
    check_same,
    families,
    plain,
    run,
    run_pruned,
    stock,
    with_lora,
)

from vispco import prune


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

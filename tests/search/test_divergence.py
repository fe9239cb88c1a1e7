"""Training stops where numbers are none, and says at which step and for which budget; batches that do not fit."""

import pytest
import torch
from short import short_of_memory

from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.errors import CapacityError, NumericError
from vispco.evaluation import Evaluator
from vispco.kernels import make_kernel
from vispco.search import LearnedSearch, LearnedSettings

BUDGETS = (0.8, 0.6)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory):
    samples = load_samples("shapes", "validation", 8, cache=tmp_path_factory.mktemp("cache"))
    return Evaluator(*load_checkpoint("micro-llava"), samples)


@pytest.fixture(params=[False, True], ids=["rows", "predictor"])
def search(request, evaluator):
    seen = []
    options = dict(predictor=request.param, anchors=2, steps=4, batch=6, starts=1, probe_samples=2, start_levels=3)
    search = LearnedSearch(
        evaluator, evaluator.cost(), make_kernel("multistep", 8, 1), BUDGETS, LearnedSettings(**options),
        report=seen.append,
    )  # fmt: skip
    search.seen = seen
    return search


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss(search, monkeypatch, value):
    real = search.relaxed_loss

    def loss(*arguments):
        found = real(*arguments)
        bad = torch.arange(len(found))[:, None] == 1
        return found.where(~bad, value) if len(search.seen) == 2 else found

    where = search.choose_starts()
    monkeypatch.setattr(search, "relaxed_loss", loss)
    with pytest.raises(NumericError, match=r"^gradient step 2: NaN or infinity in the loss of budget 0\.6; lower sear"):
        search.train(*where)
    assert len(search.seen) == 2


def test_a_gradient(search, monkeypatch):
    real, where = search.relaxed_loss, search.choose_starts()

    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, outer):
            return outer * torch.tensor([torch.nan, 1.0])[:, None]

    monkeypatch.setattr(search, "relaxed_loss", lambda batch, ratios, *rest: real(batch, Steep.apply(ratios), *rest))
    with pytest.raises(NumericError, match=r"^gradient step 0: NaN or infinity in the gradient of budget 0\.8; lower"):
        search.train(*where)


def test_parameters(search, monkeypatch):
    class Astray(torch.optim.Adam):
        def step(self):
            super().step()
            for parameter in self.param_groups[0]["params"]:
                parameter.data.fill_(torch.inf)

    where = search.choose_starts()
    monkeypatch.setattr(torch.optim, "Adam", Astray)
    with pytest.raises(NumericError, match=r"^gradient step 0: NaN or infinity in the parameters of budget 0\.8"):
        search.train(*where)


def test_a_batch_that_does_not_fit(search, evaluator):
    where = search.choose_starts()
    text = r"with 6 samples at once, which search\.batch sets; search\.batch=3 fits$"
    with short_of_memory(evaluator.model.get_decoder().layers[0], 3):
        with pytest.raises(CapacityError, match=text):
            search.train(*where)
        search.settings = LearnedSettings(**{**vars(search.settings), "batch": 3})
        search.train(*where)

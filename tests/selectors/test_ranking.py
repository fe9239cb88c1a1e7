"""Signals that are no numbers are refused where they count."""

import pytest
import torch

from vispco.errors import VispcoError
from vispco.selectors.ranking import check_finite

VALID = torch.tensor([[True, True, False]])


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 4)])
def test_one_broken_number_is_enough(shape):
    signal = torch.zeros(shape)
    check_finite(signal, VALID)
    signal[0, 2] = torch.nan
    check_finite(signal, VALID)
    signal.view(1, 3, -1)[0, 1, 0] = torch.nan
    with pytest.raises(VispcoError, match="a selector met NaN"):
        check_finite(signal, VALID)


def test_nothing_is_fine():
    check_finite(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool))
    check_finite(torch.zeros(1, 3, 0), VALID)

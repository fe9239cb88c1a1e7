"""VTW's schedules: all visual tokens leave before one layer (Lin et al., AAAI 2025, arXiv 2405.05803).

Layers before K see every token, K and later ones none, and nothing has to be scored. For a threshold eta, K is the
smallest layer, from a first one on, with::

    KL(unpruned || withdrawn before K) <= eta

on a few samples. Published: eta = 0.003 for LLaVA-1.5-7B (K = 15), 0.0005 for 13B, 0.0001 for LLaVA-NeXT-7B; about 20
samples, K from 5 on. Here the KL is that of this project, the mean over the answer's tokens; the authors take the last
prompt token, which is the first of them. Tokens keep their positions, one of the authors' two modes.
"""

from collections.abc import Mapping, Sequence

from vispco.errors import ConfigError
from vispco.search.space import Schedule


def withdrawal_schedules(layers: int, first: int = 1) -> dict[int, Schedule]:
    """Every schedule that keeps all tokens before a layer and none from it on, by that layer, from ``first`` on.

    Raises
    ------
    ConfigError
        If ``first`` is no layer that tokens can leave before.
    """
    if not 1 <= first < layers:
        raise ConfigError(f"first = {first} is outside 1..{layers - 1}; give the first layer that may go without")
    return {layer: (1.0,) * layer + (0.0,) * (layers - layer) for layer in range(first, layers)}


def choose_layers(kl: Mapping[int, float], thresholds: Sequence[float]) -> dict[float, int]:
    """The smallest layer for each threshold; without those that no layer meets.

    Parameters
    ----------
    kl : mapping of int to float
        Mean KL by the layer of the withdrawal.
    thresholds : sequence of float

    Raises
    ------
    ConfigError
        If no layer meets any of them.
    """
    found = {eta: min(layer for layer in kl if kl[layer] <= eta) for eta in thresholds if min(kl.values()) <= eta}
    if not found:
        layer = min(kl, key=kl.__getitem__)
        raise ConfigError(
            f"eta = {list(thresholds)} is met by no layer; the least KL is {kl[layer]:.3g}, without visual tokens from "
            f"layer {layer} on, so give a larger eta"
        )
    return found

"""What the sweep says: groups of coupling, best shares, and how radii go with errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from experiments.mob.sweep import Sweep
from vispco.frontier import bootstrap_mean, paired_difference

Settings = Sequence[tuple[float, dict[str, Any]]]
FOLD = 4
"""The published k for 64 of 576 tokens, which curves are drawn for."""
DEFAULT = {"share": 0.5, "k": 4}


def rounded(value: Any) -> Any:
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(part) for part in value]
    return round(float(value), 4)


def groups(sweeps: Sequence[Sweep], slices: Sequence[Sequence[str]]) -> dict[str, list[np.ndarray]]:
    """Samples of either seed, shape (samples,), bool: all, by coupling at the median of seed 0, and by slice."""
    median = np.median(sweeps[0].eta)
    found = {
        "all": [np.ones(len(s.eta), dtype=bool) for s in sweeps],
        "strong": [s.eta <= median for s in sweeps],
        "weak": [s.eta > median for s in sweeps],
    }
    for name in sorted(set(slices[0])):
        found[name] = [np.array([part == name for part in names]) for names in slices]
    return found


def couplings(sweeps: Sequence[Sweep], slices: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Quantiles of eta by slice, and which share of a slice is strongly coupled by the median of seed 0."""
    median = float(np.median(sweeps[0].eta))
    eta, names = np.concatenate([s.eta for s in sweeps]), np.concatenate([np.array(part) for part in slices])
    found = {"median": rounded(median), "slices": {}}
    for name in ["all", *sorted(set(slices[0]))]:
        part = eta if name == "all" else eta[names == name]
        found["slices"][name] = {
            "5, 50, 95 %": rounded(np.quantile(part, (0.05, 0.5, 0.95))),
            "strong": rounded(np.mean(part <= median)),
        }
    return found


def _ratios(settings: Settings) -> list[float]:
    return list(dict.fromkeys(ratio for ratio, _ in settings))


def _grid(settings: Settings, ratio: float) -> list[int]:
    return [at for at, (r, params) in enumerate(settings) if r == ratio and "preset" not in params]


def _line(settings: Settings, ratio: float) -> list[int]:
    """Settings by share, at the fold of the curves."""
    return [at for at in _grid(settings, ratio) if settings[at][1]["k"] == FOLD or settings[at][1]["share"] == 0]


def curves(sweeps: Sequence[Sweep], slices: Sequence[Sequence[str]], settings: Settings) -> dict[str, Any]:
    """KL, score and radii by share of K_p, for each group, over both seeds."""
    found: dict[str, Any] = {}
    for name, masks in groups(sweeps, slices).items():
        found[name] = {}
        for ratio in _ratios(settings):
            parts: dict[str, list[Any]] = {"kl": [], "score": [], "e_p": [], "e_v": []}
            for at in _line(settings, ratio):
                values = {
                    key: np.concatenate(
                        [getattr(s, attribute)[at][mask] for s, mask in zip(sweeps, masks, strict=True)]
                    )
                    for key, attribute in (("kl", "kl"), ("score", "score"), ("e_p", "prompt"), ("e_v", "visual"))
                }
                parts["kl"].append(rounded(bootstrap_mean(values["kl"])))
                parts["score"].append(rounded(bootstrap_mean(values["score"])))
                parts["e_p"].append(rounded(values["e_p"].mean()))
                parts["e_v"].append(rounded(values["e_v"].mean()))
            found[name][f"{ratio:g}"] = parts
    return found


def folds(sweeps: Sequence[Sweep], settings: Settings) -> dict[str, Any]:
    """Mean KL by share and fold."""
    kl = np.concatenate([s.kl for s in sweeps], axis=1).mean(axis=1)
    return {
        f"{ratio:g}": {
            f"{settings[at][1]['share']:g}, {settings[at][1]['k']}": rounded(kl[at]) for at in _grid(settings, ratio)
        }
        for ratio in _ratios(settings)
    }


def optima(sweeps: Sequence[Sweep], slices: Sequence[Sequence[str]], settings: Settings) -> dict[str, Any]:
    """The setting of least mean KL on seed 0, and on seed 1 how presets do against it and against one another."""
    found: dict[str, Any] = {}
    for name, (choose, judge) in groups(sweeps, slices).items():
        found[name] = {}
        # The preset that the rule of the paper gives the group: that of most of its samples.
        coupled = "strong" if np.mean(sweeps[0].eta[choose] <= np.median(sweeps[0].eta)) >= 0.5 else "weak"
        for ratio in _ratios(settings):
            best = min(_grid(settings, ratio), key=lambda at: sweeps[0].kl[at][choose].mean())
            presets = {p["preset"]: at for at, (r, p) in enumerate(settings) if r == ratio and "preset" in p}
            default = next(at for at in _grid(settings, ratio) if settings[at][1] == DEFAULT)
            kl, score = (values[:, judge] for values in (sweeps[1].kl, sweeps[1].score))
            own, other = presets[coupled], presets["weak" if coupled == "strong" else "strong"]
            found[name][f"{ratio:g}"] = {
                "best": settings[best][1],
                "preset": coupled,
                "kl": {
                    "best": rounded(bootstrap_mean(kl[best])),
                    "preset - best": rounded(paired_difference(kl[own], kl[best])),
                    "preset - other preset": rounded(paired_difference(kl[own], kl[other])),
                    "default - best": rounded(paired_difference(kl[default], kl[best])),
                },
                "score": {
                    "best": rounded(bootstrap_mean(score[best])),
                    "preset - best": rounded(paired_difference(score[own], score[best])),
                    "preset - other preset": rounded(paired_difference(score[own], score[other])),
                },
            }
    return found


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation along the last dimension, ties at their mean rank; NaN where either side is constant."""
    ranks = [rankdata(values, axis=-1) for values in (a, b)]
    x, y = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)))


def across(a: np.ndarray, b: np.ndarray, names: np.ndarray) -> dict[str, Any]:
    """Rank correlation over samples, with its interval, and its mean over slices, where it is defined."""
    by_slice = np.array([spearman(a[names == name], b[names == name]) for name in sorted(set(names))])
    by_slice = by_slice[np.isfinite(by_slice)]
    rho, number = float(spearman(a, b)), len(a)
    spread = 1.06 / np.sqrt(number - 3) * 1.96  # Fieller, Hartley and Pearson: of Fisher's z of a rank correlation
    ends = np.tanh(np.arctanh(np.clip(rho, -0.999999, 0.999999)) + spread * np.array([-1, 1]))
    return {"all": rounded([rho, *ends]), "mean of slices": rounded(by_slice.mean()) if len(by_slice) else None}


def per_sample_optima(sweeps: Sequence[Sweep], slices: Sequence[Sequence[str]], settings: Settings) -> dict[str, Any]:
    """Correlation of eta with every sample's own best share at the fold of the curves."""
    eta, names = np.concatenate([s.eta for s in sweeps]), np.concatenate([np.array(part) for part in slices])
    found = {}
    for ratio in _ratios(settings):
        line = _line(settings, ratio)
        shares = np.array([settings[at][1]["share"] for at in line])
        best = shares[np.concatenate([s.kl[line] for s in sweeps], axis=1).argmin(axis=0)]
        found[f"{ratio:g}"] = across(eta, best, names)
    return found


def bound(sweeps: Sequence[Sweep], slices: Sequence[Sequence[str]], settings: Settings) -> dict[str, Any]:
    """Rank correlations of radii with errors: over settings within a sample, and over samples at one setting."""
    prompt, visual, kl, change = (
        np.concatenate([getattr(s, name) for s in sweeps], axis=1) for name in ("prompt", "visual", "kl", "change")
    )
    eta, names = np.concatenate([s.eta for s in sweeps]), np.concatenate([np.array(part) for part in slices])
    terms = {"e_p": prompt, "e_v": visual, "max": np.maximum(prompt, visual), "sum": prompt + visual}
    found: dict[str, Any] = {}
    for ratio in _ratios(settings):
        grid = _grid(settings, ratio)
        default = next(at for at in grid if settings[at][1] == DEFAULT)
        found[f"{ratio:g}"] = {"settings": {}, "samples": {}}
        for error, values in (("kl", kl), ("change", change)):
            within = {}
            for term, radii in terms.items():
                rho = spearman(radii[grid].T, values[grid].T)
                within[term] = rounded(bootstrap_mean(rho[np.isfinite(rho)])) if np.isfinite(rho).any() else None
            found[f"{ratio:g}"]["settings"][error] = within
            found[f"{ratio:g}"]["samples"][error] = {
                **{term: across(radii[default], values[default], names) for term, radii in terms.items()},
                "eta": across(eta, values[default], names),
            }
    return found

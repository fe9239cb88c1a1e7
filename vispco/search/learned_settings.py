"""Settings of the learned search (:mod:`vispco.search.learned`)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LearnedSettings:
    """Settings of the learned search.

    Attributes
    ----------
    predictor : bool
        Train a predictor from the budget; else a row of parameters per start.
    anchors : int
        Budgets that a predictor is trained at at least, the asked ones among them.
    per_sample : bool
        A predictor that looks at the prompt as well.
    steps, batch : int
        Gradient steps, and samples in each.
    starts : int
        Starts per budget, with other cut layers each.
    lr : float
        Of Adam. 1: a step moves a layer position by 0.03 layers and a logit by 0.15 at first.
    dual_every : int
        Gradient steps between dual steps.
    temperature, sharpness : pair of float
        At the start and at the end, changing geometrically.
    straight_through : bool
        0/1 masks in the forward pass and the gradient of the soft ones, as VisPCO (arXiv 2604.15188) trains.
    probe_ratios : tuple of float
        Ratios of the probing cuts.
    probe_samples : int
        Samples for probing.
    start_levels : int
        Ratios between 0.9 and 0.02 that starts are made of.
    select_samples : int
        Samples for the last choice.
    polish_rounds, polish_samples : int
        Rounds of local moves at the end, and samples that decide on them.
    tune : tuple of str
        Smooth knobs of the selector to train.
    knob_lr : float
        Step on a knob, as a fraction of its range.
    """

    predictor: bool = True
    anchors: int = 9
    per_sample: bool = False
    steps: int = 8
    batch: int = 4
    starts: int = 1
    lr: float = 1.0
    dual_every: int = 3
    temperature: tuple[float, float] = (0.1, 0.02)
    sharpness: tuple[float, float] = (3.0, 10.0)
    straight_through: bool = False
    probe_ratios: tuple[float, ...] = (0.5, 0.2, 0.05)
    probe_samples: int = 200
    start_levels: int = 8
    select_samples: int = 40
    polish_rounds: int = 0
    polish_samples: int = 250
    tune: tuple[str, ...] = ()
    knob_lr: float = 0.05

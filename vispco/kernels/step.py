"""One step with a learnable position and size: the form of FastV (Chen et al., arXiv 2403.06764).

VisPCO's single-layer kernel (arXiv 2604.15188, eq. 14) with the gate g of :func:`vispco.kernels.base.gate`::

    r_l = 1 - g(l - c) (1 - s),    s = factor(a),    r_0 = 1
"""

from vispco.kernels.multistep import MultiStep


class Step(MultiStep):
    """Kernel with parameters ``(c, a)``."""

    def __init__(self, layers: int):
        super().__init__(layers, 1)

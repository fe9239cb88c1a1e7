"""Signals of the vision tower: what its layers make of the patches, and where patches are in their image.

A tower's attention is computed again from the input of the few layers that a selector asks about, for the rows that it
needs: the class token's, or, where there is none, all of them, a few at a time.
"""

from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vispco.engine.families import REGISTRY, Family
from vispco.engine.families.base import Pictures
from vispco.engine.hooks import Hook
from vispco.engine.signals import CHUNK
from vispco.errors import ModelError

TOWER = frozenset({"tower_row", "tower_first_row", "tower_keys", "tower_hidden"})
"""Signals that need the tower to run."""


class Watch:
    """Follows a model's vision tower.

    Parameters
    ----------
    family : Family
    needs : set of str
        Signals that are wanted; those of the tower are computed.

    Raises
    ------
    ModelError
        If the family's tower does not give them.
    """

    def __init__(self, family: Family, needs: Set[str]):
        self.family, self.needs = family, needs & TOWER
        self._seen: dict[str, list[Tensor]] = {}
        if self.needs and family.tower is None:
            known = ", ".join(kind for kind, adapter in REGISTRY.items() if adapter.tower is not None)
            raise ModelError(
                f"{sorted(self.needs)[0]} is not known of {family.model.config.model_type}: its vision tower gives no "
                f"attention per visual token; families whose tower does: {known}"
            )

    def install(self, stack: ExitStack) -> None:
        """Hook the tower's layers until ``stack`` closes."""
        if not self.needs:
            return
        assert self.family.tower is not None
        layers = self.family.tower.layers(self.family)
        wanted = [(layers[self.family.tower.feature_layer(self.family, len(layers))], "tower_row")]
        if "tower_first_row" in self.needs:
            wanted.append((layers[0], "tower_first_row"))
        for layer, name in wanted:
            hook = Hook(self._look, name)
            stack.callback(attention_of(layer).register_forward_pre_hook(hook, with_kwargs=True).remove)
        stack.callback(wanted[0][0].register_forward_hook(Hook(self._take_output)).remove)

    def reset(self) -> None:
        """Forget what was seen: a forward begins."""
        self._seen = {}

    def _look(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = (args[0] if args else kwargs["hidden_states"]).detach()
        assert self.family.tower is not None
        query, key = project(module, hidden)
        if name in self.needs:
            row = class_row(query, key, module) if has_class_token(self.family) else received_row(query, key, module)
            self._note(name, row[..., None])
        if name == "tower_row" and "tower_keys" in self.needs:
            self._note("tower_keys", key.transpose(1, 2).float().flatten(2))
            self._heads = key.shape[1]

    def _take_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if "tower_hidden" in self.needs:
            self._note("tower_hidden", (output[0] if isinstance(output, tuple) else output).detach().float())

    def _note(self, name: str, values: Tensor) -> None:
        self._seen.setdefault(name, []).append(values)

    def signals(self, pictures: Pictures, alive: Tensor) -> dict[str, Tensor]:
        """The signals of the visual tokens.

        Parameters
        ----------
        pictures : Pictures
        alive : Tensor, shape (batch, visual), bool

        Returns
        -------
        dict of str to Tensor, shape (batch, visual, ...)

        Raises
        ------
        ModelError
            If the tower did not run, or its patches are not the visual tokens.
        """
        spec = self.family.tower
        signals = {}
        for name in sorted(self.needs):
            if not bool(alive.any()):
                shape = {"tower_keys": (1, 1), "tower_hidden": (1,)}.get(name, ())
                signals[name] = torch.zeros(*alive.shape, *shape, device=alive.device)
                continue
            if name not in self._seen:
                raise ModelError("the vision tower did not run, so that its attention is unknown; pass pixels")
            assert spec is not None
            patches = torch.cat(self._seen[name])[:, spec.skipped(self.family) :]
            tokens = spec.pack(self.family, patches, pictures)
            if len(tokens) != int(alive.sum()):
                raise ModelError(
                    f"the vision tower gave {len(tokens)} tokens for {int(alive.sum())} in the prompt; pass the "
                    "pixels of all images of the prompt, and no others"
                )
            full = tokens.new_zeros(*alive.shape, tokens.shape[-1])
            full[alive.to(full.device)] = tokens
            signals[name] = full.to(alive.device)
        if self.family.layout is not None:
            signals |= self._layout(pictures, alive)
        for name in {"tower_row", "tower_first_row"} & set(signals):
            signals[name] = signals[name].reshape(alive.shape)
        if "tower_keys" in signals and signals["tower_keys"].dim() == 3:
            signals["tower_keys"] = signals["tower_keys"].unflatten(-1, (self._heads, -1))
        return signals

    def _layout(self, pictures: Pictures, alive: Tensor) -> dict[str, Tensor]:
        """Rows, columns and tiles of the visual tokens of a family that tells them."""
        assert self.family.layout is not None
        full = torch.zeros(*alive.shape, 3, dtype=torch.int64, device=alive.device)
        if bool(alive.any()):
            full[alive] = self.family.layout(self.family, pictures).to(alive.device)
        return {"grid": full[..., :2], "crops": full[..., 2]}


@contextmanager
def watched_tower(family: Family, needs: Set[str]) -> Iterator[Watch]:
    """Follow the vision tower inside a ``with`` block."""
    watch = Watch(family, needs)
    with ExitStack() as stack:
        watch.install(stack)
        yield watch


def attention_of(layer: nn.Module) -> nn.Module:
    """The attention module of a tower's layer, whose name differs."""
    found: nn.Module = getattr(layer, "self_attn", None) or layer.attention  # type: ignore[assignment]
    return found


def has_class_token(family: Family) -> bool:
    """Whether the tower has a token that stands for the whole image."""
    assert family.tower is not None
    names = {name.rsplit(".", 1)[-1] for name, _ in family.tower.module(family).named_parameters()}
    return bool(names & {"class_embedding", "cls_token"})


def project(module: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys of an attention module for its input; shape (pictures, heads, patches, head_dim)."""
    query, key = module.q_proj(hidden), module.k_proj(hidden)
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    shape = (*hidden.shape[:2], module.num_heads, -1)
    return query.reshape(shape).transpose(1, 2), key.reshape(shape).transpose(1, 2)


def class_row(query: Tensor, key: Tensor, module: Any) -> Tensor:
    """Attention of the class token on all patches, mean over heads; shape (pictures, patches), float32."""
    rows: Tensor = (query[:, :, :1] @ key.transpose(2, 3) * module.scale).float().softmax(dim=-1)
    return rows.mean(dim=1)[:, 0]


def received_row(query: Tensor, key: Tensor, module: Any) -> Tensor:
    """Attention that every patch receives, mean over patches and heads; shape (pictures, patches), float32."""
    total = torch.zeros(key.shape[0], key.shape[2], dtype=torch.float32, device=key.device)
    for start in range(0, query.shape[2], CHUNK):
        rows = (query[:, :, start : start + CHUNK] @ key.transpose(2, 3) * module.scale).float().softmax(dim=-1)
        total += rows.mean(dim=1).sum(dim=1)
    return total / query.shape[2]

"""Signals of the vision tower: what its layers make of the patches, and where patches are in their image."""

from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vispco.engine.encoding import watch_encoders
from vispco.engine.families import REGISTRY, Family
from vispco.engine.families.base import Pictures
from vispco.engine.families.layouts import grid_of
from vispco.engine.hooks import Hook
from vispco.engine.patches import class_row, project, received_row, there
from vispco.engine.prompt import told_of_pictures
from vispco.errors import ModelError

TOWER = frozenset({"tower_row", "tower_first_row", "tower_keys", "tower_hidden"})
"""Signals that need the tower to run."""

LAYOUT = frozenset({"grid", "crops"})
"""Signals of where tokens are in their images."""

PLAIN = ("clip_vision_model", "siglip_vision_model", "internvl_vision", "idefics3_vision", "smolvlm_vision")
"""Towers whose attention is a softmax of scaled products of queries and keys, without positions."""


class Watch:
    """Follows a model's vision tower.

    What it tells of a layer is what the layer itself gets and puts out: a norm that some towers have after their last
    layer comes later.

    Parameters
    ----------
    family : Family
    needs : set of str
        Signals that are wanted; those of the tower are computed, and the grid of families that tell one.

    Raises
    ------
    ModelError
        If the family's tower does not give them.
    """

    def __init__(self, family: Family, needs: Set[str]):
        self.family, self.needs = family, needs & TOWER
        self._laid_out = bool(needs & LAYOUT) and family.layout is not None
        self._seen: dict[str, list[Tensor]] = {}
        # By modality: what the encoder was told of its images, and the visual tokens that it made of them.
        self._told: dict[str, Pictures] = {}
        self._encoded: dict[str, int] = {}
        # Whether a forward is under way, and whether images were encoded before one.
        self._running, self._ahead = False, False
        if self.needs and (family.tower is None or family.model.config.vision_config.model_type not in PLAIN):
            known = ", ".join(kind for kind, adapter in REGISTRY.items() if adapter.tower is not None)
            kind = family.model.config.vision_config.model_type
            raise ModelError(
                f"{sorted(self.needs)[0]} is not known of {family.model.config.model_type}: its vision tower ({kind}) "
                f"gives no attention per visual token; families whose tower does: {known}"
            )
        self._led = bool(self.needs) and has_class_token(family)

    def install(self, stack: ExitStack) -> None:
        """Hook the tower's layers, and what calls it, until ``stack`` closes."""
        if self.needs or self._laid_out:
            watch_encoders(self.family.base, stack, self._begin, self._end)
            stack.callback(self.family.base.register_forward_hook(Hook(self._close), always_call=True).remove)
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
        """A forward begins: forget what others saw, but not what ``generate`` encoded ahead for this one."""
        if not self._ahead:
            self._seen, self._told, self._encoded = {}, {}, {}
        self._running, self._ahead = True, False

    def _close(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._running = False

    def _begin(self, modality: str) -> None:
        self._ahead = self._ahead or not self._running
        if modality == "image":
            self._seen = {}

    def _end(self, modality: str, arguments: Pictures, tokens: int) -> None:
        self._told[modality] = told_of_pictures(arguments)
        self._encoded[modality] = tokens

    @torch.no_grad()
    def _look(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        query, key = project(module, hidden)
        if name in self.needs:
            seen = there(kwargs.get("attention_mask"), key)
            row = (class_row if self._led else received_row)(query, key, module, seen)
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
        pictures = {**pictures, **{name: value for told in self._told.values() for name, value in told.items()}}
        # `generate` repeats every sample for several beams or texts, after it encoded the images.
        repeats = max(1, int(alive.sum()) // max(1, sum(self._encoded.values()))) if self._encoded else 1
        for name in ("input_ids", "attention_mask") if repeats > 1 else ():
            if pictures.get(name) is not None:
                pictures[name] = pictures[name][::repeats]
        signals = self._tower_signals(pictures, alive[::repeats]) if self.needs else {}
        if self._laid_out:
            signals |= grid_of(self.family, pictures, alive[::repeats])
        return {name: value.repeat_interleave(repeats, dim=0) for name, value in signals.items()}

    def _tower_signals(self, pictures: Pictures, alive: Tensor) -> dict[str, Tensor]:
        spec, config = self.family.tower, self.family.model.config
        assert spec is not None
        for name in ("vision_feature_layer", "vision_feature_select_strategy"):
            given = pictures.get(name)
            if given is not None and given != getattr(config, name, None):
                raise ModelError(
                    f"{name} = {given} in the call is not that of the configuration, by which signals of the vision "
                    "tower are read; set it in model.config"
                )
        signals = {}
        for name in sorted(self.needs):
            shape = {"tower_keys": (1, 1), "tower_hidden": (1,)}.get(name, ())
            if not bool(alive.any()):
                signals[name] = torch.zeros(*alive.shape, *shape, device=alive.device)
                continue
            if name not in self._seen:
                raise ModelError("the vision tower did not run, so that its attention is unknown; pass pixels")
            patches = torch.cat(self._seen[name])[:, spec.skipped(self.family) :]
            tokens = spec.pack(self.family, patches, pictures)
            if len(tokens) != int(alive.sum()):
                raise ModelError(
                    f"the vision tower gave {len(tokens)} tokens for {int(alive.sum())} in the prompt; pass the "
                    "pixels of all images of the prompt, and no others"
                )
            full = tokens.new_zeros(*alive.shape, tokens.shape[-1])
            full[alive.to(full.device)] = tokens
            full = full.unflatten(-1, (self._heads, -1)) if name == "tower_keys" else full
            signals[name] = (full if shape else full[..., 0]).to(alive.device)
        return signals


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

"""Devices that are not there: CPU tensors that say they are on others, and a model spread over them."""

import accelerate
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


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
        if function in (Tensor.numpy, Tensor.__array__) and self.of(args[0]).type != "cpu":
            raise TypeError(f"{function.__name__} of a tensor on {self.of(args[0])}")
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
            if isinstance(source, nn.Parameter):
                moved = nn.Parameter(source.detach().clone(), source.requires_grad)
            else:
                moved = source.clone()  # a gradient runs through it
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

"""Models that lack memory, or whose numbers go wrong, pretended by hooks."""

from contextlib import contextmanager

import torch


@contextmanager
def short_of_memory(module, most):
    """Inside the block a module of a model runs out of memory with more than ``most`` samples."""

    def refuse(module, args, kwargs):
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        if len(given) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has none.")

    hook = module.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def gone_wrong(layer, sample, full):
    """Inside the block a decoder layer gives NaN for a sample, where it runs on other than ``full`` tokens."""

    def spoil(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[1] != full and len(hidden) > sample:
            hidden[sample] = torch.nan
        return output

    hook = layer.register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()

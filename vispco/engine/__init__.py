"""The pruning engine: the only room that knows the insides of transformers."""

from vispco.engine.attention import observed_attention
from vispco.engine.checkpoint import fingerprint, load_checkpoint, model_card
from vispco.engine.losses import relaxed_losses
from vispco.engine.picture import Seen, seen_picture
from vispco.engine.pruning import Pruned, prune
from vispco.engine.replay import Captured, Replay
from vispco.engine.tower import TOWER

__all__ = [
    "TOWER",
    "Captured",
    "Pruned",
    "Replay",
    "Seen",
    "fingerprint",
    "load_checkpoint",
    "model_card",
    "observed_attention",
    "prune",
    "relaxed_losses",
    "seen_picture",
]

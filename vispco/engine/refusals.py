"""Why some ways to use a model are refused: errors and ``vispco models`` say the same."""

CACHES = "a static cache would allot every layer the unpruned length, a quantized one cannot be gathered"
CHUNKS = "shows a selector one piece of the prompt at a time, so that it cannot choose among all visual tokens"
PACKED = "every row of a batch is one prompt; pass a padded batch with its mask"
LATER = "tokens are chosen once, in the first prefill; start with a new cache"
WEIGHTS_FLOAT16 = "weighted attention in float16 underflows to NaN; load the model in bfloat16 or float32"
WEIGHTS_SOFTCAP = "weighted attention knows no bound of attention logits; search on a model without softcap"
WEIGHTS_FLASH = "flash attention cannot weight keys; load the model with sdpa to search"

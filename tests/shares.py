"""How many tokens each image keeps, written out slowly."""


def quotas(count, sizes):
    """One each while it lasts, and the rest by largest remainder."""
    quota = []
    for size in sizes:
        quota.append(1 if size and sum(quota) < count else 0)
    rest, room = count - sum(quota), [size - had for size, had in zip(sizes, quota, strict=True)]
    if rest == 0:
        return quota
    whole = [rest * size // sum(room) for size in room]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(rest * room[i] % sum(room)), i))
    lucky = by_remainder[: rest - sum(whole)]
    return [had + more + (i in lucky) for i, (had, more) in enumerate(zip(quota, whole, strict=True))]

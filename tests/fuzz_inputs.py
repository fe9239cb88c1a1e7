"""Damaged files: what is made of good ones, byte by byte and value by value."""

import copy
import json

TOKENS = (
    b'"', b"'", b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\r\n", b"\t", b"\0",
    b"\x1b[2J", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"-", b"e9", b"NaN", b"Infinity",
    b"null", b"true", b"0", b"../", b"/", b"://", b"#", b"&a", b"*a", b"${oc.env:HOME}", b"=" * 3, b" " * 64,
)  # fmt: skip
"""What parsers stumble over."""

ODD = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.0, -0.0, 0.5, 1.5, 1e-320, 1e308,
    -1e308, float("nan"), float("inf"), float("-inf"), "", " ", "nan", "0", "-1", "1.0", "2.0", "\0", "\ud800",
    "\u2028", "../../x", "/etc/passwd", "x" * 300, "${oc.env:HOME}", [], {}, [[]], [None], {"": None}, {"type": "x"},
    [0.5] * 40,
)  # fmt: skip
"""Values for a place that expects another one."""

RAW = {
    "@deep@": "[" * 100_000,
    "@deep object@": '{"a":' * 100_000,
    "@balanced@": "[" * 900 + "]" * 900,
    "@digits@": "1" * 5000,
    "@huge@": "1e999",
    "@long@": '"' + "y" * 200_000 + '"',
}
"""Text that no serializer writes, by what stands for it until it is inserted."""


def damaged(random, content, others):
    """A file that is nearly ``content``.

    Parameters
    ----------
    random : random.Random
    content : bytes
    others : sequence of bytes
        Files of the same kind, parts of which may come in.
    """
    if random.random() < 0.6:
        content = _edited(random, content) or _bytewise(random, content, others)
    else:
        content = _bytewise(random, content, others)
    return content


def _bytewise(random, content, others):
    found = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        at = random.randrange(len(found) + 1)
        end = min(len(found), at + random.choice((1, 1, 2, 4, 8, 40, 400)))
        kind = random.randrange(8)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(found):
            found[at] = random.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, 10, 34, 48, random.randrange(256)))
        elif kind == 2:
            del found[at:end]
        elif kind == 3:
            found[at:at] = found[at:end] * random.choice((1, 2, 30))
        elif kind == 4:
            found[at:at] = random.choice(TOKENS)
        elif kind == 5:
            del found[at:]
        elif kind == 6:  # lengths and offsets of binary formats
            width = random.choice((2, 4, 8))
            value = random.choice((0, 1, 2, 255, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1))
            found[at : at + width] = value.to_bytes(width, random.choice(("big", "little")))
        else:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            found[at:end] = other[start : start + random.choice((1, 8, 64, 1000))]
    return bytes(found)


def _edited(random, content):
    """One or two values changed in a JSON document, or in one line of several; None if there is no JSON in it."""
    for whole in (True, False):
        lines = [content] if whole else content.split(b"\n")
        at = random.randrange(len(lines))
        try:
            value = json.loads(lines[at])
            for _ in range(random.choice((1, 1, 2))):
                value = _with_change(random, value)
            lines[at] = _text(random, value)
        except (ValueError, RecursionError):  # no JSON, or more than Python's own reads and writes
            continue
        return b"\n".join(lines)
    return None


def _with_change(random, value):
    places = list(_places(value))
    if not places or random.random() < 0.02:
        return _odd(random, value)
    holder, key = random.choice(places)
    kind = random.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice((key + "x", "", "schema_version", "A"))] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder[key:key] = [holder[key]] * random.choice((1, 3, 20))
    elif kind == 3:
        other, place = random.choice(places)
        holder[key] = json.loads(json.dumps(other[place]))  # no part of itself
    else:
        holder[key] = _odd(random, holder[key])
    return value


def _places(value):
    """All places of a nested value, as a container and a key or index."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in entries:
            yield value, key
            waiting.append(inner)


def _odd(random, value):
    if isinstance(value, int | float) and not isinstance(value, bool) and random.random() < 0.4:
        try:
            return random.choice((-value, value + 1, value * 1e300, value / 3, str(value), [value]))
        except OverflowError:
            return 0
    if isinstance(value, str) and value and random.random() < 0.4:
        at = random.randrange(len(value))
        return value[:at] + random.choice(TOKENS).decode("utf-8", "replace") + value[at + random.randrange(2) :]
    return copy.deepcopy(random.choice((*ODD, *RAW)))  # it is changed where it stands


def _text(random, value):
    text = json.dumps(value, ensure_ascii=random.random() < 0.7)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw, 1)  # of many copies one is enough
    return text.encode("utf-8", "surrogatepass")

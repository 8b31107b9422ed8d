"""Make broken variants of a valid file: truncated, with flipped bytes, spliced, or with false headers; all from one seed."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

NESTED = "\0nested"  # placeholder in a header for what json.dumps can't write: 100,000 nested lists
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    7,
    2**31,
    2**40,
    10**9,
    10**30,
    0.5,
    -1e300,
    float("nan"),
    float("inf"),
    "",
    "lstm",
    "\ud800",
    "\x1b[2J",
    "a" * 10_000,
    [],
    {},
    [[]],
    [None],
    {"a": {}},
    [2**40, 2**40],
    [0, 2**63],
    ["F32"],
    "F64",
    "BF16",
    "I64",
    "BOOL",
    NESTED,
]


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Split a safetensors file into its header, our JSON object in it, and the bytes of the tensors."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["charrnn"]), data[8 + length :]


def pack(header: dict[str, Any], ours: dict[str, Any], body: bytes) -> bytes:
    """The inverse of `unpack`."""

    def text(value: Any) -> str:
        return json.dumps(value).replace(json.dumps(NESTED), "[" * 100_000 + "]" * 100_000)

    outer = text({**header, "__metadata__": {"charrnn": text(ours)}}).encode()
    outer += b" " * (-len(outer) % 8)
    return len(outer).to_bytes(8, "little") + outer + body


def mutants(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` broken variants of the file `good`."""
    for k in range(count):
        chance = random.Random(f"{seed} {k}")
        yield chance.choice([_cut, _flip, _flip_tensors, _splice, _lie, _lie, _lie, _lie_outside, _twice])(good, chance)


def _cut(good: bytes, chance: random.Random) -> bytes:
    return good[: chance.randrange(len(good))] if chance.random() < 0.8 else good + chance.randbytes(chance.randrange(1, 99))


def _flip(good: bytes, chance: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(chance.choice([1, 1, 2, 10])):
        data[chance.randrange(len(data)) if chance.random() < 0.5 else chance.randrange(min(len(data), 2000))] ^= (
            1 << chance.randrange(8)
        )
    return bytes(data)


def _flip_tensors(good: bytes, chance: random.Random) -> bytes:
    data, start = bytearray(good), 8 + int.from_bytes(good[:8], "little")
    for _ in range(chance.choice([1, 3, 30])):
        data[chance.randrange(start, len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _splice(good: bytes, chance: random.Random) -> bytes:
    a, b = sorted(chance.randrange(len(good)) for _ in range(2))
    to = chance.randrange(len(good))
    return good[:to] + good[a:b] + good[chance.choice([to, min(len(good), to + b - a)]) :]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Yield every (container, key) in a JSON value."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [(value, key) for key, _ in items] + [place for _, child in items for place in _places(child)]


def _change(value: Any, chance: random.Random) -> None:
    container, key = chance.choice(_places(value))
    act = chance.random()
    if act < 0.15:
        del container[key]
    elif act < 0.3 and isinstance(container, dict):
        container[chance.choice(["", "x", "__metadata__", str(key) + "_"])] = container.pop(key)
    elif act < 0.4 and isinstance(container[key], (int, float)):
        container[key] = chance.choice([container[key] + 1, -container[key], container[key] * 1000, str(container[key])])
    else:
        container[key] = copy.deepcopy(chance.choice(VALUES))


def _lie(good: bytes, chance: random.Random) -> bytes:
    header, ours, body = unpack(good)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        if _places(ours):
            _change(ours, chance)
    return pack(header, ours, body)


def _lie_outside(good: bytes, chance: random.Random) -> bytes:
    header, ours, body = unpack(good)
    del header["__metadata__"]
    for _ in range(chance.choice([1, 1, 2])):
        _change(header, chance)
    if chance.random() < 0.1:
        return chance.choice([0, 7, 2**20, 2**40, 2**64 - 1]).to_bytes(8, "little") + pack(header, ours, body)[8:]
    return pack(header, ours, body)


def _twice(good: bytes, chance: random.Random) -> bytes:
    """Duplicate a key, in our object or in the file's."""
    header, ours, body = unpack(good)
    text = json.dumps(ours)
    key = chance.choice(sorted(ours))
    inner = text[:-1] + f", {json.dumps(key)}: {json.dumps(chance.choice(VALUES[:12]))}}}"
    if chance.random() < 0.5:
        inner = text
    outer = json.dumps({**header, "__metadata__": {"charrnn": inner}})
    if inner == text:
        name = chance.choice([name for name in header if name != "__metadata__"])
        outer = outer[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    data = outer.encode()
    return len(data).to_bytes(8, "little") + data + body

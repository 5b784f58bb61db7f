"""Runs libFuzzer on one target: ``fuzz_main.py TARGET [libFuzzer's arguments]``.

Called by `scripts/fuzz`, in an environment of its own: atheris is no part of the other tests. Most
inputs hold JSON, which flipped bytes only break; so half of the changes are made to its values.
"""

import random
import sys

import atheris
from support.changing import change_some

with atheris.instrument_imports(include=["edge_store", "json_repair", "support"]):
    from support.fuzzing import INPUT_BYTES_MAX, TARGETS


def mutate(data: bytes, size_max: int, seed: int) -> bytes:
    """libFuzzer's hook: another input, made from ``data``."""
    random_ = random.Random(seed)
    if random_.random() < 0.5:
        return bytes(atheris.Mutate(data, size_max))
    head, (first, zero, second) = data[:2], data[2:].partition(b"\0")
    if random_.random() < 0.3:
        first = change_some(first, random_) or first
    else:
        lines = second.splitlines(keepends=True)
        if random_.random() < 0.15 and lines:  # twice, or not at all, or in another order
            place = random_.randrange(len(lines))
            lines[place : place + 1] = random_.choice([[], [lines[place]] * 2])
            second = b"".join(lines)
        elif lines:
            place = random_.randrange(len(lines))
            name = b"data: " if lines[place].startswith(b"data: ") else b""
            changed = change_some(lines[place][len(name) :], random_)
            if changed is not None:
                lines[place] = name + changed + b"\n"
            second = b"".join(lines)
    return (head + first + zero + second)[:size_max]


def main() -> None:
    """Look for an input for which the target does not hold; libFuzzer ends the process."""
    target = TARGETS[sys.argv.pop(1)]
    arguments = [*sys.argv, f"-max_len={INPUT_BYTES_MAX}", "-len_control=0"]
    atheris.Setup(arguments, target, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Functions of the instructions that count.c counted."""

import bisect
import collections
import itertools
import json
import pathlib
import re
import subprocess

import boards

# The hash and the type parameters at the end of a Rust name.
NOISE = re.compile(r"::h[0-9a-f]{16}$|<.*>$")
# Bellis's own sources.
OWN = re.compile(r"^(?!.*(?:/registry/|/rustc/|/rustlib/)).*src/")


def read(profile):
    """Instructions by file and by address in the file and kind, from the plugin's profile: the memory map, and executed blocks."""
    maps, blocks = pathlib.Path(profile).read_text().split("\n\n", 1)
    starts, files, bases = [], [], {}
    for line in maps.splitlines():
        addresses, _, _, _, _, *path = line.split(maxsplit=5)
        starts.append(int(addresses.split("-")[0], 16))
        files.append(path[0] if path else "no file")
        bases.setdefault(files[-1], starts[-1])
    found = collections.defaultdict(collections.Counter)
    for line in blocks.splitlines():
        address, times, kinds = line.split()
        address = int(address, 16)
        file = files[bisect.bisect_right(starts, address) - 1]
        for index, kind in enumerate(kinds):
            found[file][address - bases[file] + 4 * index, ord(kind) - ord("A")] += int(times)
    return found


def executed(whole, first, program):
    """Instructions by function and kind in the whole recording without those of the first chunk."""
    sums = collections.defaultdict(collections.Counter)
    for file, counts in whole.items():
        counts = {place: count - first[file][place] for place, count in counts.items() if count != first[file][place]}
        own = pathlib.Path(file) == pathlib.Path(program).resolve()
        functions = names(program, [at for at, _ in counts]) if own else itertools.repeat(pathlib.Path(file).name)
        for ((_, kind), count), function in zip(counts.items(), functions):
            sums[function][kind] += count
    return sums


def names(program, addresses):
    """Functions of addresses: with line tables, the innermost inlined function in Bellis's sources, else the symbol."""
    command = [boards.llvm("llvm-symbolizer"), "--output-style=JSON", "--demangle", "--inlines", f"--obj={program}"]
    asked = "\n".join(map(hex, addresses))
    for line in subprocess.run(command, input=asked, text=True, capture_output=True, check=True).stdout.splitlines():
        frames = json.loads(line).get("Symbol") or [dict(FunctionName="unknown", FileName="")]
        own = next((frame for frame in frames if OWN.search(frame["FileName"])), None)
        name = NOISE.sub("", (own or frames[-1])["FunctionName"])
        yield f"{own['FileName'].rsplit('src/', 1)[1]}: {name.rsplit('::', 1)[-1]}" if own else name

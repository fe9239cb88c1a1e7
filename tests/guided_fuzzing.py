"""One reader under atheris, which follows coverage: ``python tests/guided_fuzzing.py tsv -runs=100000``.

What follows the name goes to libFuzzer. It stops at the first fault and leaves the input as ``crash-...``.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vispco"]):
    from fuzz_readers import READERS
    from fuzzing import attempt


def main():
    name, *options = sys.argv[1:]
    reader = READERS[name]
    with tempfile.TemporaryDirectory() as corpus, tempfile.TemporaryDirectory() as place:
        for number, content in enumerate(reader.seeds()):
            (Path(corpus) / str(number)).write_bytes(content)
        folder = Path(place)
        for file, content in reader.beside.items():
            (folder / file).write_bytes(content())

        def read(content):
            _, fault = attempt(reader, folder, content, seconds=0)
            if fault:
                raise RuntimeError(fault)

        atheris.Setup([sys.argv[0], *options, corpus], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

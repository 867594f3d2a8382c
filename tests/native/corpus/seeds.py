"""Write the seeds of the fuzzers: `python -m tests.native.corpus.seeds` in the root of the project."""

from pathlib import Path

from tests.oracles import log_line, strings

HERE = Path(__file__).parent

SEEDS = {
    "wire/empty": strings([]),
    "wire/paths": strings([b"/nix/store/00000000000000000000000000000000-a", b"", b"12345678"]),
    "wire/nul": strings([b"a\0b"]),
    "wire/huge": b"\xff" * 16,
    "loglines/several": log_line(1, b"plain") + log_line(1, b'"\\\t') + log_line(1, "é€😀".encode()) + b"rest",
    "loglines/invalid": log_line(1, b"plain") + log_line(1, b"\xe2\x82"),
}

if __name__ == "__main__":
    for name, data in SEEDS.items():
        file = HERE / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)

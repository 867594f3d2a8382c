"""Trees of files as Hypothesis draws them: see tests/oracles.py for what a tree is."""

from hypothesis import strategies as st

from tests.oracles import File, Symlink

names = st.binary(min_size=1, max_size=255).filter(lambda n: n not in (b".", b"..") and not {0, 47} & set(n))
odd_names = st.sampled_from([b"-", b"...", b".hidden", b"\xff\xfe", b"a", b"A", b"a\n", b"\x1b[31m", b"n" * 255])
files = st.builds(File, st.binary(max_size=40) | st.integers(0, 20000).map(lambda n: b"x" * n), st.booleans())
symlinks = st.builds(Symlink, st.binary(min_size=1, max_size=300).map(lambda t: t.replace(b"\0", b"0")))
trees = st.recursive(
    files | symlinks, lambda child: st.dictionaries(names | odd_names, child, max_size=6), max_leaves=12
)

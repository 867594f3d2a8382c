"""A bound on what is remembered."""

from hook.recent import Recent


def test_of_many_the_last_ones_are_kept() -> None:
    """Also those that were put again."""
    recent: Recent[int, str] = Recent(3)
    for key in (1, 2, 3, 1, 4):
        assert recent.put(key, str(key)) == str(key)
    assert recent == {3: "3", 1: "1", 4: "4"}

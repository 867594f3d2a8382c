"""What a machine is asked about inputs; how they get there is in test_build.py, test_session.py, test_upload.py."""

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, cast

from hook.transfer import inputs
from hook.transfer.inputs import missing_there


def test_no_question_is_longer_than_memory_allows(monkeypatch) -> None:
    """A closure may have any number of paths; each is asked about once, and nothing is asked about none."""
    monkeypatch.setattr(inputs, "ASKED_AT_ONCE", 10)
    questions: list[Collection[str]] = []

    def query_valid_paths(paths: Collection[str], substitute: bool) -> set[str]:
        assert substitute
        questions.append(paths)
        return {path for path in paths if path.endswith("7")}

    remote = cast(Any, SimpleNamespace(client=SimpleNamespace(query_valid_paths=query_valid_paths)))
    paths = [str(number) for number in range(25)]
    assert missing_there(remote, paths, substitute=True) == set(paths) - {"7", "17"}
    assert sorted(path for question in questions for path in question) == sorted(paths)
    assert [len(question) for question in questions] == [10, 10, 5]
    assert missing_there(remote, [], substitute=True) == set()
    assert len(questions) == 3

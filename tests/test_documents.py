"""What the code and the documents say of each other: citations, links, and commands of the Makefile."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import REPOSITORY

CODE = sorted(
    path
    for folder in ("hook", "native", "tests", "bench", "man")
    for path in (REPOSITORY / folder).rglob("*")
    if path.suffix in (".py", ".pyi", ".c", ".h") and path != Path(__file__) and "build" not in path.parts
)
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]

ITEM = r'(?:docs/[\w/-]+\.md(?:, "[^"]+")+|\w[\w.-]*\(\d\)(?:, on [^;.]+)?|https://\S+)'
SOURCE = re.compile(r"\bSources?: +(.{0,300})")
CITATION = re.compile(rf"{ITEM}(?:; {ITEM})*(?=$|\.|\s)")
PLACE = re.compile(r'(docs/[\w/-]+\.md)((?:, "[^"]+")+)')
OTHER = re.compile(
    r'\b(?:[\w-]+\.md,? sections?\b|(?:hook|worker|serve) protocol, (?:sections?|")|local store, section)'
)


def in_one_line(text: str) -> str:
    """`text` as if it had not been broken into lines, with or without the marks of a comment."""
    return re.sub(r"\s*\n[ \t]*(?:\*(?!/)|#|//)?[ \t]*", " ", text)


def headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)


def wrong_citations(text: str, root: Path = REPOSITORY) -> Iterator[str]:
    """What `text` cites in another form than it should, or from where there is nothing."""
    text = in_one_line(text)
    for match in OTHER.finditer(text):
        yield f"not in the form of a citation: {match[0]}"
    for source in SOURCE.finditer(text):
        if not CITATION.match(source[1]):
            yield f"not in the form of a citation: {source[1][:60]}"
    for name, cited in PLACE.findall(text):
        if not (root / name).exists():
            yield f"there is no {name}"
            continue
        yield from (
            f"{name} has no '{each}'" for each in re.findall('"([^"]+)"', cited) if each not in headings(root / name)
        )


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_is_cited_can_be_read(path: Path) -> None:
    """A reader who wants to know why must find it in the repository, or in a manual."""
    assert list(wrong_citations(path.read_text())) == []


def test_citations_are_found_wherever_they_stand(tmp_path: Path) -> None:
    """A check that finds nothing wrong must be one that could."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# A\n\n## One thing\n")

    def wrong(text: str) -> list[str]:
        return list(wrong_citations(text, tmp_path))

    assert wrong('Source: docs/a.md, "One\n    thing".  Tested.') == []
    assert wrong('/* Source: docs/a.md,\n * "One thing", "A". */') == []
    assert wrong("Source: ssh_config(5), on Include and Match.  Source: https://example.org/x") == []
    assert wrong('Source: docs/a.md, "One thing"; sshd(8), on the format of known_hosts.') == []
    assert wrong('Source: docs/a.md, "Another".') == ["docs/a.md has no 'Another'"]
    assert wrong('see docs/b.md, "A"') == ["there is no docs/b.md"]
    for other in ("Source: machines.md", "Sources: worker protocol", "Source: docs/a.md."):
        assert wrong(other), other
    for other in ("see nar.md section 3", "the build-hook protocol, section 8", 'worker protocol, "Handshake"'):
        assert wrong(other), other


def anchors(path: Path) -> set[str]:
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(path)}


def dead_links(path: Path) -> Iterator[str]:
    """Links to files or headings that are not there."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path: Path) -> None:
    """To a file, and to a heading if they name one."""
    assert list(dead_links(path)) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    links = "[a](page.md#top-x) [b](#top-x) [c](https://x) [d](gone.md) [e](#gone)"
    page.write_text(f"# Top `x`\n{links}\n```\n[f](gone)\n```\n")
    assert list(dead_links(page)) == ["gone.md", "#gone"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_of_the_makefile_exist(path: Path) -> None:
    """The first thing that a newcomer types."""
    made = set(re.findall(r"^([a-z][\w-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    made |= set(re.findall(r"^([a-z][\w-]*):", (REPOSITORY / "native/Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z][\w-]*)", path.read_text())) <= made

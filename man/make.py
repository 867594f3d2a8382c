"""The man pages, completions and the README's table of keys, made from what the program itself knows: `make man`.

nix-ferry.1 from the command's own help, ferry.toml.5 from hook/config.py; nix-ferry-hook.8 is written by hand.
Completions are what `nix-ferry completions` prints; a shell finds each by its name.  tests/cli/test_man.py says when
any of it is out of date.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

import hook
from hook.cli.config import script, written
from hook.cli.main import main as nix_ferry
from hook.config import KEYS

HERE = Path(__file__).parent
COMPLETIONS = HERE.parent / "completions"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- keys: made by `make man` -->\n", "<!-- end of keys -->"

SCRIPTS = {"bash": "nix-ferry", "fish": "nix-ferry.fish", "zsh": "_nix-ferry"}

SEE_ALSO = {
    "nix-ferry": ["nix-ferry-hook (8)", "ferry.toml (5)", "nix.conf (5)", "ssh_config (5)"],
    "ferry.toml": ["nix-ferry (1)", "nix-ferry-hook (8)", "nix.conf (5)"],
}


def pages() -> dict[Path, str]:
    """Every file that is made, with its text."""
    return {
        HERE / "nix-ferry.1": "\n".join(command_page()) + "\n",
        HERE / "ferry.toml.5": "\n".join(config_page()) + "\n",
        README: with_keys(README.read_text()),
        **{COMPLETIONS / name: script(nix_ferry, shell) for shell, name in SCRIPTS.items()},
    }


def command_page() -> Iterator[str]:
    yield from _head("nix-ferry", 1, "find out where Nix builds go, and why")
    yield ".SH SYNOPSIS\n.B nix\\-ferry\n.I COMMAND\n.RI [ OPTION ]..."
    yield ".SH DESCRIPTION"
    yield from _prose(nix_ferry.help or "")
    yield ".SH COMMANDS"
    _, *below = everything(click.Context(nix_ferry, info_name="nix-ferry"))
    for context in below:
        yield f".SS {_text(context.command_path)} {_text(' '.join(context.command.collect_usage_pieces(context)))}"
        yield from _prose(context.command.help or "")
        for parameter in context.command.params:
            if isinstance(parameter, click.Option):
                value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
                yield f".TP\n\\fB{_text(', '.join(parameter.opts))}\\fR{_text(value)}\n{_text(parameter.help or '')}"
    yield from _prose(nix_ferry.epilog or "", heading=".SH")
    yield from _see_also("nix-ferry")


def config_page() -> Iterator[str]:
    yield from _head("ferry.toml", 5, "settings of nix-ferry")
    yield ".SH DESCRIPTION"
    yield from _prose(
        "The file lies beside nix.conf, in /etc/nix or $NIX_CONF_DIR. It is optional, as is every key in it, and is "
        "read for every build, so nothing has to be restarted. A file with a mistake in it costs one warning, which "
        "names the line and the nearest key, and counts for nothing.\n\n'nix-ferry config' shows what is in force."
    )
    yield ".SH KEYS"
    for key in KEYS:
        default = written(key.default) or key.unset
        yield f".TP\n\\fB{_text(key.name)}\\fR ({_text(key.kind)}; default: {_text(default)})"
        yield _text(key.meaning.replace("`", ""))
    yield ".SH EXAMPLE\n.nf"
    yield from (_text(f"{key.name} = {written(key.default)}") for key in KEYS if key.default is not None)
    yield ".fi"
    yield from _see_also("ferry.toml")


def with_keys(readme: str) -> str:
    """`readme` with the table of keys as it should be."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    rows = [f"| `{key.name}` | {_default(key.default) or key.unset} | {key.kind} | {key.meaning} |\n" for key in KEYS]
    return "".join([before, BEGIN, "| key | default | values | |\n|---|---|---|---|\n", *rows, END, after])


def _default(value: bool | int | None) -> str:
    return f"`{written(value)}`" if value is not None else ""


def commands(context: click.Context) -> Iterator[click.Context]:
    """All commands that do something, in the order of their names."""
    return (each for each in everything(context) if not isinstance(each.command, click.Group))


def everything(context: click.Context) -> Iterator[click.Context]:
    """`context`, and all that is below it, in the order of their names."""
    yield context
    if isinstance(context.command, click.Group):
        for name, command in sorted(context.command.commands.items()):
            yield from everything(click.Context(command, parent=context, info_name=name))


def _head(name: str, section: int, purpose: str) -> Iterator[str]:
    yield '.\\" Made by `make man`.'
    yield f'.TH {name.upper()} {section} "" "nix-ferry {hook.__version__}"'
    yield f".SH NAME\n{_text(name)} \\- {_text(purpose)}"


def _see_also(name: str) -> Iterator[str]:
    yield ".SH SEE ALSO"
    *most, last = SEE_ALSO[name]
    yield from (f".BR {_text(page)} ," for page in most)
    yield f".BR {_text(last)}"


def _prose(text: str, heading: str = ".PP") -> Iterator[str]:
    """The paragraphs of a help text; one that begins with click's mark for it keeps its lines."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.splitlines()
        if lines[:1] == ["\b"]:
            title, *kept = lines[1:]
            if heading == ".SH":
                yield f".SH {_text(title.rstrip(':').upper())}\n.nf"
            else:
                yield f".PP\n{_text(title)}\n.nf"
            yield from map(_text, kept)
            yield ".fi"
        elif lines:
            yield f".PP\n{_text(' '.join(line.strip() for line in lines))}"


def _text(text: str) -> str:
    """`text` as troff takes it literally; most terminals show a bare hyphen as something that cannot be typed."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("→", "->")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)

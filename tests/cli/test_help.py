"""Every command teaches: `--help` says in a sentence what it is for, and shows it at work.

The manual has the same text.
"""

import inspect
import re
import shlex

import click
import pytest
from click.testing import CliRunner

from hook.cli import main as main_module
from hook.cli.main import main
from man.make import command_page, everything

EXAMPLE = re.compile(r"  (?P<line>\S.*?\S)(?: {2,}(?P<shows>\S.*))?")
WIDTH = 100


CONTEXTS = list(everything(click.Context(main, info_name="nix-ferry")))
every_command = pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.command_path)


def examples(context: click.Context) -> list[str]:
    """The lines below `Examples:`."""
    text = "\n\n".join(inspect.cleandoc(part or "") for part in (context.command.help, context.command.epilog))
    (lines,) = re.findall(r"^Examples:\n((?:  .+\n?)+)", text, re.MULTILINE)
    return str(lines).splitlines()


@every_command
def test_a_command_says_in_a_sentence_what_it_is_for(context: click.Context) -> None:
    """Which is all of it that a list of commands has room for."""
    first = inspect.cleandoc(context.command.help or "").split("\n\n")[0]
    assert re.fullmatch(r"[A-Z][^.]*(?:\.toml[^.]*)?\.", first)
    assert context.command.get_short_help_str(WIDTH - len("completions") - 6) == " ".join(first.split())


@every_command
def test_a_command_shows_itself_at_work(context: click.Context) -> None:
    """With words that it really takes, and what comes of them."""
    shown = [EXAMPLE.fullmatch(line) for line in examples(context)]
    assert shown
    for example in shown:
        assert example, "it does not say what it shows"
        assert example["shows"], "it does not say what it shows"
        words = shlex.split(re.split(r" [|>&]|\)", example["line"][example["line"].index("nix-ferry") :])[0])
        assert " ".join(words).startswith(context.command_path)
        parse(words)


def parse(words: list[str]) -> None:
    """click.UsageError if a command does not understand its words."""
    context = main.make_context(words[0], words[1:])
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert name
        assert command
        context = command.make_context(name, rest, parent=context)


@every_command
def test_no_line_is_wider_than_help(context: click.Context) -> None:
    """Examples are not wrapped, so they have to fit."""
    words = context.command_path.split()[1:]
    done = CliRunner().invoke(main, [*words, "--help"], terminal_width=WIDTH)
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


@every_command
def test_every_option_is_explained(context: click.Context) -> None:
    for parameter in context.command.params:
        assert not isinstance(parameter, click.Option) or re.fullmatch(r"[A-Z].*\.", parameter.help or "")


def test_the_manual_has_every_example() -> None:
    """In the words of the help."""
    manual = "\n".join(command_page()).replace("\\-", "-").replace("\\e", "\\").replace("\\&", "")
    for context in CONTEXTS:
        for line in examples(context):
            assert line.strip().replace("…", "...") in manual


def test_the_list_of_commands_has_no_command_in_it() -> None:
    """Each stands in a module of its own, with all that it does; a second home for one would be found second."""
    source = inspect.getsource(main_module)
    assert "def " not in source.replace("def main() -> None:", "", 1)
    homes = {
        name: inspect.getmodule(inspect.unwrap(each.callback)) for name, each in main.commands.items() if each.callback
    }
    assert homes.keys() >= {"doctor", "explain", "install", "machine", "ping", "status"}
    assert main_module not in homes.values()
    # Nothing is listed twice, and every command of ours is listed.
    assert len(main.commands) == len({id(each) for each in main.commands.values()})
    assert not [name for name in homes if not hasattr(main_module, name)]

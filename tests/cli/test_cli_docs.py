"""The reference in docs/cli.md is made from the commands: ``python tests/cli/test_cli_docs.py`` writes it anew."""

from __future__ import annotations

from pathlib import Path

import click

from raftlog_mp.cli.commands import cli

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
START, END = "<!-- reference: made by tests/cli/test_cli_docs.py -->\n", "<!-- end of the reference -->\n"


def reference() -> str:
    """Every command, argument and option, as Markdown."""
    return "\n".join(section(name, command) for name, command in cli.commands.items())


def section(name: str, command: click.Command) -> str:
    arguments = " ".join(str(p.metavar) for p in command.params if isinstance(p, click.Argument))
    usage = f"raftlog-mp {name} {arguments}".rstrip()
    text = " ".join((command.help or "").split())
    rows = [row(option) for option in command.params if isinstance(option, click.Option)]
    table = "\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n" if rows else ""
    return f"### `{usage}`\n\n{text}\n\n{table}"


def row(option: click.Option) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else " " + placeholder(option)
    default = f" Default: {option.default}." if option.show_default and not option.is_flag else ""
    default = f" Default: {option.opts[0]}." if option.show_default and option.is_flag and option.default else default
    return f"| `{names}{value}` | {option.help}{default} |".replace("`|`", "`\\|`")


def placeholder(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return " or ".join(option.type.choices)
    return option.metavar or option.type.name.upper()


def test_the_reference_is_up_to_date():
    document = DOCUMENT.read_text(encoding="utf-8")
    assert START in document and END in document
    current = document.split(START)[1].split(END)[0]
    message = "the commands have changed; run `python tests/cli/test_cli_docs.py` to write docs/cli.md anew"
    assert current == reference(), message


def test_every_command_and_option_is_mentioned():
    document = DOCUMENT.read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        assert f"`raftlog-mp {name}" in document
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, f"{name} {option.opts[0]} has no help"
            for word in [*option.opts, *option.secondary_opts] if isinstance(option, click.Option) else []:
                assert word in document, f"{name} {word}"


def write() -> None:
    """Put the reference of the commands as they are now into the document."""
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(START)
    DOCUMENT.write_text(before + START + reference() + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    write()

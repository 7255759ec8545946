"""A group whose commands are imported when they are called. Used by the vsync and the vsyncd command."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import click
from click.exceptions import NoSuchCommand
from click.shell_completion import CompletionItem


class LazyGroup(click.Group, ABC):
    """Help and shell completion use the help lines only, because importing every command takes most of a second."""

    @abstractmethod
    def help_lines(self) -> Mapping[str, str]:
        """Returns the help line of each command by its name."""

    @abstractmethod
    def load(self, ctx: click.Context, name: str) -> click.Command:
        """Imports a command that has a help line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.help_lines())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.load(ctx, cmd_name) if cmd_name in self.help_lines() else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            raise NoSuchCommand(error.command_name, possibilities=self.help_lines(), ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(self.help_lines().items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        commands = [
            CompletionItem(name, help=text) for name, text in self.help_lines().items() if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

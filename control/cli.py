"""The `gateway` command. In: arguments. Out: text and an exit code; what a sub-command does is in the file it calls.

Exit codes: 0 done; 1 it cannot run here, or did not come up; 2 the configuration or the arguments are wrong.
"""

# ruff: noqa: E402 - before the imports, for it is they that the collector would look through

from extproc.process.collector import collect_seldom

collect_seldom()

from importlib import import_module

import click

# Each is imported when it is called: what asks a running gateway reads no gateway.yaml, a worker carries no tables.
_COMMANDS = {
    **{name: f"control.commands.{name}" for name in ("export", "keys", "requests", "teams", "top", "usage")},
    **dict.fromkeys(("check", "prices", "render"), "control.cli_files"),
    **dict.fromkeys(("extproc", "watch"), "control.cli_pod"),
    **dict.fromkeys(("refill", "reload", "up"), "control.cli_up"),
    **dict.fromkeys(("control", "demo", "settler", "worker"), "control.cli_processes"),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """All of them, the hidden ones too."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The one of this name."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name]), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="llm-gateway")
def main() -> None:
    """An LLM gateway: one OpenAI-compatible endpoint in front of every provider."""


if __name__ == "__main__":
    main()

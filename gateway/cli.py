"""The commands and their options; the only place that ends the process.

What a command needs is imported when it runs: `serve` must answer before anything else is loaded. A command is as
long as the words of its options.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from gateway import __version__
from gateway.serving import FAILED, MISUSED, run, serve_over_http, serve_over_stdio, start_logging

if TYPE_CHECKING:
    from gateway.config import Config

app = typer.Typer(
    name="pg-gateway",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text reads well in any width, and in a log
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The profiles.toml to use. Left out: what PG_GATEWAY_CONFIG names, else ./profiles.toml, else the one in "
        "the user's configuration folder.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_DEFAULT_ADDRESS: Final = "127.0.0.1:8765"


def _config(path: Path | None) -> Config:
    from platformdirs import user_config_path

    from gateway.config import load_config
    from gateway.errors import ConfigError

    try:
        return load_config(path, os.environ, cwd=Path.cwd(), user_config_dir=user_config_path("pg-gateway"))
    except ConfigError as error:
        from gateway.display import explain

        explain(error)
        raise typer.Exit(MISUSED) from None


def _check_names(names: Sequence[str], loaded: Config) -> None:
    unknown = [name for name in names if name not in loaded.profiles]
    if unknown:
        typer.echo(f"no profile named {unknown[0]!r}; use one of: {', '.join(loaded.profiles)}", err=True)
        raise typer.Exit(MISUSED)


def _run(work: Coroutine[Any, Any, int], *, settles: bool = False) -> None:
    raise typer.Exit(run(work, settles=settles))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pg-gateway {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """One read-only MCP server over several PostgreSQL databases.

    The databases are named in profiles.toml, or by environment variables such as DATABASE_URL.
    """


@app.command(short_help="Serve MCP over stdio or HTTP.")
def serve(
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            metavar="[HOST:PORT]",
            help=f"Serve Streamable HTTP at http://HOST:PORT/mcp instead of stdio; alone, {_DEFAULT_ADDRESS}. Port 0 "
            "takes a free one.",
        ),
    ] = None,
    config: ConfigOption = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="NAME",
            help="Another name under which clients may reach the address, as behind a proxy; repeatable.",
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without a bearer token.")] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(metavar="LEVEL", help="How much goes to stderr: debug, info, warning or error."),
    ] = "info",
) -> None:
    """Serve MCP to one client over stdin and stdout, or to many over HTTP.

    Starting connects to no database: that happens with the first call to each. Over HTTP, an address that other
    machines can reach needs a bearer token in the variable PG_GATEWAY_TOKEN.

    It runs until its client closes stdin, or until SIGTERM or Ctrl-C.
    """
    from gateway.config_keys import written

    start_logging(log_level)
    if http is not None:
        # The operator's address is checked before the configuration is read.
        host, port = _address(http)
        token = written(os.environ, "PG_GATEWAY_TOKEN")
        _check_exposure(host, token=token, insecure=insecure)
        _run(
            serve_over_http(_config(config), host=host, port=port, token=token, allowed_hosts=allowed_host or []),
            settles=True,
        )
    _run(serve_over_stdio(_config(config)), settles=True)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - the highest port
        typer.echo(f"--http {text}: give HOST:PORT, such as {_DEFAULT_ADDRESS}", err=True)
        raise typer.Exit(MISUSED)
    return host.strip("[]") or "127.0.0.1", int(port)


def _check_exposure(host: str, *, token: str | None, insecure: bool) -> None:
    from gateway.http import is_loopback

    if is_loopback(host) or token is not None or insecure:
        return
    typer.echo(
        f"--http {host}: other machines can reach this address. Set PG_GATEWAY_TOKEN to a bearer token that clients "
        "have to send, or say --insecure if something else guards it.",
        err=True,
    )
    raise typer.Exit(MISUSED)


@app.command(short_help="List the profiles.")
def profiles(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the profiles: where they point, as whom, how encrypted, and which one is active.

    Nothing is connected to, and no password is shown.
    """
    from gateway.display import show_profiles

    loaded = _config(config)
    show_profiles(loaded, as_json=as_json)


@app.command(short_help="Connect hop by hop and say where it fails.")
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="PROFILE", help="The profiles to check. Left out: all of them.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Seconds for each hop, 0.1 to 300.", min=0.1, max=300)
    ] = 10.0,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print, for each profile, the SQL of a role that can only read.")
    ] = False,
) -> None:
    """Connect hop by hop and say how far it gets, and what the role may do besides reading.

    The hops are configuration, DNS, TCP, TLS, login, server, session and rights; the first one that fails is the
    last one tried. The exit code is 1 when a hop failed, and 0 with warnings.
    """
    from gateway.display import show_check

    loaded = _config(config)
    _check_names(names or [], loaded)
    chosen = [loaded.profiles[name] for name in names or loaded.profiles]
    _run(show_check(chosen, environ=os.environ, as_json=as_json, timeout_s=timeout, with_sql=sql))


@app.command(short_help="Run one read-only statement.")
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="The statement; - reads it from stdin.")],
    profile: Annotated[
        str | None,
        typer.Option("--profile", "-p", metavar="NAME", help="The profile to ask. Left out: the active one."),
    ] = None,
    format_: Annotated[
        Literal["table", "json", "csv"],
        typer.Option("--format", "-f", metavar="FORMAT", help="How to print the rows: table, json or csv."),
    ] = "table",
    limit: Annotated[int, typer.Option(metavar="ROWS", help="The most rows to print.", min=1)] = 100,
    config: ConfigOption = None,
) -> None:
    """Run one read-only statement, by the same path as the tool `execute_query`.

    Rows go to stdout, all else to stderr, but an error goes to stdout with `--format json`. The exit code is 1 when
    the statement failed.
    """
    from gateway.display import show_query

    start_logging("error")
    if sql == "-":
        sql = sys.stdin.read()
    _run(_query(_config(config), sql, profile=profile, form=format_, limit=limit, show=show_query))


async def _query(config: Config, sql: str, *, profile: str | None, form: str, limit: int, show: Any) -> int:
    from gateway.app import Gateway
    from gateway.display import explain
    from gateway.errors import GatewayError
    from gateway.tools import TOOLS

    tool = next(tool for tool in TOOLS if tool.name == "execute_query")
    async with Gateway(config, environ=os.environ) as gateway:
        try:
            given = {"query": sql, "limit": limit, "profile": profile}
            _, answer = await tool.run(gateway, tool.check(given))
        except GatewayError as error:
            if form == "json":
                from gateway.results import to_json

                typer.echo(to_json({"error": error.to_dict()}).decode())
            else:
                explain(error, statement=sql)
            return FAILED
    show(answer, form=form)
    return 0


@app.command(name="explain-guard", short_help="Say what the guard decides about a text.")
def explain_guard(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="The text to judge; - reads it from stdin.")],
    profile: Annotated[
        str | None,
        typer.Option("--profile", "-p", metavar="NAME", help="Judge by this profile's database. Left out: offline."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the guard decides about a text, and why, by asking the guard itself. Nothing is run.

    Without a profile it judges offline, by the functions that PostgreSQL brings along. The exit code is 1 when the text
    is refused.
    """
    start_logging("error")
    if sql == "-":
        sql = sys.stdin.read()
    _run(_explain_guard(sql, profile=profile, config=config, as_json=as_json))


async def _explain_guard(sql: str, *, profile: str | None, config: Path | None, as_json: bool) -> int:
    from gateway.app import Gateway
    from gateway.config import Config
    from gateway.display import explain, show_verdict
    from gateway.errors import GatewayError
    from gateway.profiles import Endpoint, Profile

    if profile is None:
        nowhere = Profile(name="offline", endpoints=(Endpoint(host="localhost"),), database="", user="")
        loaded = Config(profiles={"offline": nowhere}, default="offline")
    else:
        loaded = _config(config)
    async with Gateway(loaded, environ=os.environ) as gateway:
        try:
            verdict = await gateway.explain(sql, gateway.resolve(profile), offline=profile is None)
        except GatewayError as error:
            explain(error)
            return FAILED
    show_verdict(verdict, as_json=as_json)
    return int(verdict["verdict"] != "allowed")


@app.command(short_help="Try it all on three throw-away servers.")
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the calls; the exit code is 1 when one of them failed.")
    ] = False,
    http: Annotated[
        str, typer.Option("--http", metavar="HOST:PORT", help="Where to serve; a free port if it is taken.")
    ] = _DEFAULT_ADDRESS,
) -> None:
    """Start three throw-away PostgreSQL servers with a web shop in them, serve them, and call each tool once.

    It goes on serving until Ctrl-C, which removes everything. No profiles.toml is read.
    """
    from gateway.demo import run_demo
    from gateway.http import is_loopback

    host, port = _address(http)
    if not is_loopback(host):
        typer.echo(f"--http {host}: the demo serves this machine only", err=True)
        raise typer.Exit(MISUSED)
    start_logging("warning")
    _run(run_demo(host=host, port=port, once=once))


@app.command(short_help="Break the network before a database and see what is lost.")
def drill(  # noqa: PLR0917 - typer reads the options from the signature
    profile: Annotated[
        str | None, typer.Argument(metavar="PROFILE", help="The profile to drill. Left out: the active one.")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Drill throw-away servers instead; no profiles.toml is read.")
    ] = False,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario", "-s", metavar="NAME", help="A scenario to walk through; repeatable. Left out: all of them."
        ),
    ] = None,
    callers: Annotated[int, typer.Option(metavar="N", help="How many read at once, 1 to 100.", min=1, max=100)] = 4,
    seconds: Annotated[
        float,
        typer.Option(metavar="S", help="Seconds of each phase (calm, fault, recovery), 0.5 to 600.", min=0.5, max=600),
    ] = 5.0,
    call_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="The time of a call, 1 to 600. Left out: the profile's limits.call_s, and 10 with --demo.",
            min=1,
            max=600,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one page with a timeline of each scenario there, too."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the scenarios and end.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Break the network between a gateway and a database in every way, under load, and report what came of it.

    The database itself is not touched: a proxy of the drill's own stands before it, and the reads use no table.
    With --demo its servers are restarted and crashed, too. It needs Toxiproxy.

    The exit code is 1 when a promise was broken. Ctrl-C ends it in order and reports what was done by then.
    """
    from gateway import drilling
    from gateway.display import explain
    from gateway.errors import InvalidArguments

    if listed:
        drilling.list_scenarios(as_json=as_json)
        return
    try:
        scenarios = drilling.choose_scenarios(scenario or (), own_server=demo)
        drilling.check_writable(html)
    except InvalidArguments as error:
        explain(error)
        raise typer.Exit(MISUSED) from None
    command = shlex.join(["pg-gateway", *sys.argv[1:]])
    wishes = drilling.Wishes(scenarios, callers, seconds, call_seconds, as_json, html, command)
    start_logging("error")
    if demo:
        _run(drilling.drill_demo(wishes), settles=True)
    loaded = _config(config)
    name = profile or loaded.default
    _check_names([name], loaded)
    _run(drilling.drill_profile(loaded, name, wishes, environ=os.environ), settles=True)


def main() -> None:
    """Run the command line."""
    # `--http` alone means the default address; typer has no options with an optional value.
    arguments = sys.argv[1:]
    for place, word in enumerate(arguments):
        follows = arguments[place + 1] if place + 1 < len(arguments) else "-"
        if word == "--http" and follows.startswith("-"):
            arguments.insert(place + 1, _DEFAULT_ADDRESS)
            break
    app(args=arguments, prog_name="pg-gateway")

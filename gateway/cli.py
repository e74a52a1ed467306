"""The commands. Logging goes to stderr; the only place that ends the process.

What a command needs is imported when it runs: `serve` must answer before anything else is loaded. Past 400 lines
because the words of every option stand beside the command that takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from gateway import __version__

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.errors import GatewayError

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
_BACKLOG: Final = 2048
_LAST_ANSWERS_S: Final = 5
_SHOWN_CHARS: Final = 100
_FAILED: Final = 1
_MISUSED: Final = 2
_STOPPED: Final = 128


def _start_logging(level: str) -> None:
    from gateway.redact import RedactingFilter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handler.addFilter(RedactingFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _pointer(text: str, position: int) -> str:
    """Return the line of `text` at this character, counted from 1, and a mark below it."""
    start = text.rfind("\n", 0, position - 1) + 1
    end = text.find("\n", position - 1)
    line = text[start : end if end >= 0 else None]
    column = position - 1 - start
    first = max(0, column - _SHOWN_CHARS // 2)
    return f"    {line[first : first + _SHOWN_CHARS]}\n    {' ' * (column - first)}^"


def _explain(error: GatewayError, *, statement: str = "") -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(f"{error.code}: ", style="bold red") + Text(error.message))
    if error.position is not None and error.position <= len(statement):
        console.print(Text(_pointer(statement, error.position)))
    if error.hint:
        console.print(Text(f"  {error.hint}", style="dim"))


def _config(path: Path | None) -> Config:
    from platformdirs import user_config_path

    from gateway.config import load_config
    from gateway.errors import ConfigError

    try:
        return load_config(path, os.environ, cwd=Path.cwd(), user_config_dir=user_config_path("pg-gateway"))
    except ConfigError as error:
        _explain(error)
        raise typer.Exit(_MISUSED) from None


def _on_signals(react: Callable[[], object], *numbers: signal.Signals) -> None:
    """Let these signals ask for an orderly end instead of cutting the process off."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        # Windows has no such thing; Ctrl-C raises KeyboardInterrupt there.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, react)


def _run(work: Coroutine[Any, Any, int], *, settles: bool = False) -> None:
    """Run a command to its exit code, on uvloop where there is one.

    settles: the command turns the garbage collector on by itself, once all that lives long is made.
    """
    if not settles:
        gc.enable()
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop

    async def stoppable() -> int:
        # What must be cleaned up is cleaned up when SIGTERM comes, too.
        task = asyncio.current_task()
        if task is not None:
            _on_signals(task.cancel, signal.SIGTERM)
        return await work

    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            code = runner.run(stoppable())
        except KeyboardInterrupt:
            code = _STOPPED + signal.SIGINT
        except asyncio.CancelledError:
            code = _STOPPED + signal.SIGTERM
    raise typer.Exit(code)


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

    _start_logging(log_level)
    if http is not None:
        # The operator's address is checked before the configuration is read.
        host, port = _address(http)
        token = written(os.environ, "PG_GATEWAY_TOKEN")
        _check_exposure(host, token=token, insecure=insecure)
        _run(
            _serve_http(_config(config), host=host, port=port, token=token, allowed_hosts=allowed_host or []),
            settles=True,
        )
    _run(_serve_stdio(_config(config)), settles=True)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - the highest port
        typer.echo(f"--http {text}: give HOST:PORT, such as {_DEFAULT_ADDRESS}", err=True)
        raise typer.Exit(_MISUSED)
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
    raise typer.Exit(_MISUSED)


def _settle() -> None:
    """Spare the collector what lives as long as the process; results are large and have no cycles."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


def _warn(config: Config) -> None:
    for warning in config.warnings:
        logging.getLogger("gateway.config").warning("%s", warning)


async def _serve_stdio(config: Config) -> int:
    from gateway.app import Gateway
    from gateway.observe import log_record
    from gateway.server import build_server
    from gateway.transports import serve_stdio

    _warn(config)
    async with Gateway(config, environ=os.environ, observers=[log_record]) as gateway:
        server, plain = build_server(gateway, finished=True), build_server(gateway, finished=False)
        _settle()
        logging.getLogger("gateway").info("serving MCP on stdin and stdout")
        serving = asyncio.create_task(serve_stdio(server, plain))
        _on_signals(serving.cancel, signal.SIGTERM, signal.SIGINT)
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    return 0


async def _serve_http(config: Config, *, host: str, port: int, token: str | None, allowed_hosts: list[str]) -> int:
    import socket

    import uvicorn

    from gateway.app import Gateway
    from gateway.http import build_http_app
    from gateway.observe import log_record
    from gateway.server import build_server

    _warn(config)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        typer.echo(f"--http {_shown(host, port)}: cannot listen there: {error.strerror}", err=True)
        return _FAILED
    async with Gateway(config, environ=os.environ, observers=[log_record]) as gateway:
        web = build_http_app(build_server(gateway, finished=True), host=host, token=token, allowed_hosts=allowed_hosts)
        server = uvicorn.Server(
            uvicorn.Config(
                web,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=_LAST_ANSWERS_S,
            )
        )
        # uvicorn's own handlers would end the process before the pools are closed.
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign] # uvicorn has no setting for it
        _on_signals(lambda: server.handle_exit(signal.SIGINT, None), signal.SIGTERM, signal.SIGINT)
        logging.getLogger("gateway").info("serving MCP at http://%s/mcp", _shown(*listener.getsockname()[:2]))
        _settle()
        await server.serve(sockets=[listener])
    return 0


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
    unknown = [name for name in names or [] if name not in loaded.profiles]
    if unknown:
        typer.echo(f"no profile named {unknown[0]!r}; use one of: {', '.join(loaded.profiles)}", err=True)
        raise typer.Exit(_MISUSED)
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

    _start_logging("error")
    if sql == "-":
        sql = sys.stdin.read()
    _run(_query(_config(config), sql, profile=profile, form=format_, limit=limit, show=show_query))


async def _query(config: Config, sql: str, *, profile: str | None, form: str, limit: int, show: Any) -> int:
    from gateway.app import Gateway
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
                _explain(error, statement=sql)
            return _FAILED
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
    _start_logging("error")
    if sql == "-":
        sql = sys.stdin.read()
    _run(_explain_guard(sql, profile=profile, config=config, as_json=as_json))


async def _explain_guard(sql: str, *, profile: str | None, config: Path | None, as_json: bool) -> int:
    from gateway.app import Gateway
    from gateway.config import Config
    from gateway.display import show_verdict
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
            _explain(error)
            return _FAILED
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
        raise typer.Exit(_MISUSED)
    _start_logging("warning")
    _run(run_demo(host=host, port=port, once=once))


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

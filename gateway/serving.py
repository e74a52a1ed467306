"""How a command runs as a process: its log, its event loop, its signals; and `serve` on both wires.

What a wire needs is imported when it is served: stdio must answer before anything else is loaded.
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
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gateway.config import Config

FAILED: Final = 1
MISUSED: Final = 2
_STOPPED: Final = 128
_BACKLOG: Final = 2048
_LAST_ANSWERS_S: Final = 5


def start_logging(level: str) -> None:
    """Log to stderr from this level on, with secrets blanked."""
    from gateway.observe import OneLineFilter
    from gateway.redact import RedactingFilter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handler.addFilter(OneLineFilter())
    handler.addFilter(RedactingFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _on_signals(react: Callable[[], object], *numbers: signal.Signals) -> None:
    """Let these signals ask for an orderly end instead of cutting the process off."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        # Windows has no such thing; Ctrl-C raises KeyboardInterrupt there.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, react)


def run(work: Coroutine[Any, Any, int], *, settles: bool = False) -> int:
    """Run a command and return its exit code, on uvloop where there is one.

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
            return runner.run(stoppable())
        except KeyboardInterrupt:
            return _STOPPED + signal.SIGINT
        except asyncio.CancelledError:
            return _STOPPED + signal.SIGTERM


def settle() -> None:
    """Spare the collector what lives as long as the process; results are large and have no cycles."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


def _warn(config: Config) -> None:
    for warning in config.warnings:
        logging.getLogger("gateway.config").warning("%s", warning)


async def serve_over_stdio(config: Config) -> int:
    """Serve one client over stdin and stdout until it leaves; returns the exit code."""
    from gateway.app import Gateway
    from gateway.observe import log_record
    from gateway.server import build_server
    from gateway.transports import serve_stdio

    _warn(config)
    async with Gateway(config, environ=os.environ, observers=[log_record]) as gateway:
        server, plain = build_server(gateway, finished=True), build_server(gateway, finished=False)
        settle()
        logging.getLogger("gateway").info("serving MCP on stdin and stdout")
        serving = asyncio.create_task(serve_stdio(server, plain))
        _on_signals(serving.cancel, signal.SIGTERM, signal.SIGINT)
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    return 0


async def serve_over_http(config: Config, *, host: str, port: int, token: str | None, allowed_hosts: list[str]) -> int:
    """Serve many clients over HTTP until a signal comes; returns the exit code."""
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
        sys.stderr.write(f"--http {_shown(host, port)}: cannot listen there: {error.strerror}\n")
        return FAILED
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
        settle()
        await server.serve(sockets=[listener])
    return 0


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import get_args

import asyncpg
import pytest
import trustme
from asyncpg.connect_utils import TLSUpgradeProto

from gateway.config_keys import KEY_BY_NAME
from gateway.errors import ConfigError
from gateway.profiles import SSL_MODES, SslMode, Tls
from gateway.tls import TlsPlan, tls_plan

HOST = "db.example.org"
MODES: tuple[SslMode, ...] = ("prefer", "require", "verify-ca", "verify-full")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def roots(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "root.crt"))
    return str(tmp_path / "root.crt")


def server(authority: trustme.CA, *, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = highest
    authority.issue_cert(HOST).configure_cert(context)
    return context


def shake_hands(plan: TlsPlan, server_context: ssl.SSLContext, *, host: str = HOST) -> str | None:
    """Return the TLS version that both ends settle on, over memory instead of a network."""
    assert plan.context is not None
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = plan.context.wrap_bio(to_client, to_server, server_hostname=host)
    far = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [near, far]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not waiting
    return near.version()


def test_the_words_for_the_modes_are_the_same_everywhere() -> None:
    assert get_args(SslMode) == SSL_MODES
    assert KEY_BY_NAME["ssl_mode"].kind == ", ".join(SSL_MODES)


def test_disable_has_no_context_and_never_goes_on_without() -> None:
    plan = tls_plan(Tls(mode="disable"))
    assert (plan.context, plan.required, plan.verifies) == (None, False, False)
    assert not plan.goes_on_without(ssl.SSLError())


@pytest.mark.parametrize("mode", MODES)
def test_only_prefer_does_not_require_encryption(mode: SslMode) -> None:
    assert tls_plan(Tls(mode=mode)).required == (mode != "prefer")


@pytest.mark.parametrize("mode", ["prefer", "require"])
def test_modes_that_do_not_verify_take_any_certificate(mode: SslMode) -> None:
    plan = tls_plan(Tls(mode=mode))
    assert not plan.verifies
    assert shake_hands(plan, server(trustme.CA()), host="other.example.org") == "TLSv1.3"


@pytest.mark.parametrize("mode", ["require", "verify-ca"])
def test_a_root_certificate_verifies_the_chain_but_not_the_name(
    mode: SslMode, authority: trustme.CA, roots: str
) -> None:
    plan = tls_plan(Tls(mode=mode, root_cert=roots))
    assert shake_hands(plan, server(authority), host="other.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake_hands(plan, server(trustme.CA()))


def test_verify_full_verifies_chain_and_name(authority: trustme.CA, roots: str) -> None:
    plan = tls_plan(Tls(mode="verify-full", root_cert=roots))
    assert shake_hands(plan, server(authority))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(plan, server(authority), host="other.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(plan, server(trustme.CA()))


@pytest.mark.parametrize("root", [None, "system"])
def test_without_a_file_the_system_store_is_trusted_and_an_unknown_authority_is_not(root: str | None) -> None:
    plan = tls_plan(Tls(mode="verify-full", root_cert=root))
    assert plan.verifies
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(plan, server(trustme.CA()))


@pytest.mark.parametrize("mode", MODES)
def test_tls_below_1_2_is_refused(mode: SslMode, authority: trustme.CA, roots: str) -> None:
    plan = tls_plan(Tls(mode=mode, root_cert=roots))
    assert shake_hands(plan, server(authority, highest=ssl.TLSVersion.TLSv1_2)) == "TLSv1.2"
    assert plan.context is not None
    assert plan.context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read: No such file or directory"), (b"", "no certificate"), (b"hello", "no certificate")],
    ids=["missing", "empty", "garbage"],
)
def test_a_root_file_without_roots_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "root.crt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        tls_plan(Tls(mode="verify-full", root_cert=str(path)))
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.anyio
async def test_prefer_goes_on_without_where_the_driver_says_that_the_server_has_no_tls() -> None:
    plan = tls_plan(Tls(mode="prefer"))
    assert plan.context is not None
    answer = TLSUpgradeProto(asyncio.get_running_loop(), HOST, 5432, plan.context, ssl_is_advisory=False)
    answer.data_received(b"N")
    error = answer.on_data.exception()
    assert error is not None
    assert plan.goes_on_without(error)
    assert not tls_plan(Tls(mode="require")).goes_on_without(error)


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (ssl.SSLError("wrong version number"), True),
        (asyncpg.InvalidAuthorizationSpecificationError("no pg_hba.conf entry"), True),
        (asyncpg.InvalidPasswordError("password authentication failed"), False),
        (ConnectionRefusedError(), False),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
    ],
    ids=["no common TLS", "no entry with encryption", "wrong password", "refused", "reset", "silent"],
)
def test_prefer_goes_on_without_for_no_other_reason(error: BaseException, goes_on: bool) -> None:  # noqa: FBT001 - a column of the table
    assert tls_plan(Tls(mode="prefer")).goes_on_without(error) is goes_on

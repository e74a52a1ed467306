"""One profile while it is put together: the file's values, the environment over them, and what contradicts what.

Each value carries the place where it was written, so that every fault can name it. Finding and reading
the file is `config.py`'s part; what one value alone may be is `config_keys.py`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.config_keys import KEY_BY_NAME, KEYS, REFERENCES, nearest
from gateway.dsn import Dsn, shown_dsn
from gateway.profiles import AzureSettings, Endpoint, Limits, PoolSettings, Profile, RetrySettings, Tls
from gateway.redact import redact

_GROUPS = tuple(dict.fromkeys(key.name.partition(".")[0] for key in KEYS if "." in key.name))
_TABLE_KEYS = tuple(dict.fromkeys(key.name.partition(".")[0] for key in KEYS))
_URL_PARTS = ("host", "hosts", "port", "database", "user")
_URL_OPTIONS = {"sslmode": "ssl_mode", "sslrootcert": "ssl_root_cert"}
_URL_UNUSED = {
    "application_name": "the gateway gives its own name",
    "connect_timeout": "limits.call_s bounds the whole call",
}
_LONGEST_SHOWN = 60
_PLAIN_BITS = 63


@dataclass(slots=True)
class Findings:
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value that was written somewhere, and how to speak of it without giving a secret away."""

    value: Any = field(repr=False)
    place: str
    shown: str
    variable: str | None = None

    def fault(self, problem: str) -> str:
        return f"{self.place} = {self.shown}: {problem}"


Layer = dict[str, Setting]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where the paths of a source begin: at the file that names them, or at the working folder."""

    base: Path
    home: str | None

    def anchor(self, key: str, value: Any) -> Any:
        scheme, _, rest = value.partition(":") if key == "password" else ("", "", value)
        if (key == "password" and scheme != "file") or (key == "ssl_root_cert" and value == "system"):
            return value
        whole = f"{self.home}{rest[1:]}" if self.home and rest.startswith("~/") else rest
        found = str(self.base / whole)
        return f"file:{found}" if key == "password" else found


@dataclass(slots=True, kw_only=True)
class Draft:
    """One profile while it is put together: first the file's table, then the environment over it."""

    name: str
    place: str
    findings: Findings
    settings: Layer = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    overrides: dict[str, str] = field(default_factory=dict)
    # Where a kind of profile has defaults of its own.
    defaults: dict[str, float] = field(default_factory=dict)

    # reading

    def read(self, table: Mapping[str, Any], *, paths: Paths) -> None:
        """Take the table's values that fit; note a fault for each other one."""
        for name, raw in _flat(table, place=self.place, findings=self.findings):
            key = KEY_BY_NAME[name]
            shown = shown_value(raw, is_secret=key.is_secret)
            try:
                value = key.parse(raw)
            except ValueError as error:
                self.findings.faults.append(f"{self.place} {name} = {shown}: {error}")
                self.refused.add(name)
                continue
            if name in ("password", "ssl_root_cert"):
                value = paths.anchor(name, value)
            self.settings[name] = Setting(value=value, place=f"{self.place} {name}", shown=shown)
        self._contradictions()
        if url := self.settings.pop("url", None):
            self.settings.update(url_settings(url, paths=paths, findings=self.findings))
        password = self.settings.get("password")
        if password and not password.value.startswith(REFERENCES[:3]):
            self.findings.warnings.append(
                f"{password.place}: is a literal password: write env:NAME or file:PATH and keep it out of the file"
            )
        host, port = self.settings.pop("host", None), self.settings.pop("port", None)
        if "hosts" not in self.settings:
            pair = (self._value("host", host), self._value("port", port))
            said = host or port
            place, shown = (said.place, said.shown) if said else (f"{self.place} host", '"localhost"')
            self.settings["hosts"] = Setting(value=(pair,), place=place, shown=shown)

    def _contradictions(self) -> None:
        for one, others in (("url", _URL_PARTS), ("hosts", ("host", "port")), ("use_azure_ad", ("password",))):
            setting = self.settings.get(one)
            if setting is None or setting.value is False:
                continue
            both = [other for other in others if other in self.settings]
            if both:
                self.findings.faults.append(setting.fault(f"contradicts {' and '.join(both)}: leave one of them out"))
        url = self.settings.get("url")
        if url is None:
            return
        said = {"password": url.value.password is not None}
        said |= {_URL_OPTIONS[key]: True for key, _ in url.value.options if key in _URL_OPTIONS}
        for key, is_said in said.items():
            if is_said and key in self.settings:
                self.findings.faults.append(url.fault(f"says {key} a second time: leave one of them out"))
        if said["password"] and "use_azure_ad" in self.settings and self.settings["use_azure_ad"].value:
            self.findings.faults.append(url.fault("has a password, and use_azure_ad needs none: leave one of them out"))

    # the environment

    def override(self, variables: Layer, *, refused: set[str]) -> None:
        """Lay the environment's values over those that were read; `refused` are the keys of its faults."""
        self.refused |= refused
        layer = dict(variables)
        if "url" in layer:
            # A URL names a whole connection: no password or port of another server may slip into it.
            layer.pop("url")
            for key in ("hosts", "database", "user", "password"):
                self.settings.pop(key, None)
            self.overrides |= dict.fromkeys(("host", "port", "database", "user", "password"), "DATABASE_URL")
        if "password" in layer and self._get("use_azure_ad") and "use_azure_ad" not in layer:
            del self.settings["use_azure_ad"]
            self.overrides["use_azure_ad"] = layer["password"].variable or ""
        if "use_azure_ad" in layer and layer["use_azure_ad"].value:
            self.settings.pop("password", None)
        if "hosts" in layer:
            self.settings["hosts"] = layer.pop("hosts")
        servers = self._get("hosts") or ((KEY_BY_NAME["host"].default, None),)
        if host := layer.pop("host", None):
            ports = {port for _, port in servers}
            self._put("host", host, hosts=((host.value, ports.pop() if len(servers) == 1 else None),))
        if port := layer.pop("port", None):
            servers = self._get("hosts") or servers
            self._put("port", port, hosts=tuple((name, port.value) for name, _ in servers))
        for key, setting in layer.items():
            self.settings[key] = setting
            self.overrides[key] = setting.variable or ""

    def _put(self, key: str, setting: Setting, *, hosts: tuple[tuple[str, int | None], ...]) -> None:
        self.settings["hosts"] = Setting(value=hosts, place=setting.place, shown=setting.shown)
        self.overrides[key] = setting.variable or ""

    # the profile

    def profile(self) -> Profile:
        """Return the profile, noting what of it does not fit together."""
        azure = self._azure()
        is_azure = azure.server_type is not None or azure.use_ad
        if is_azure:
            self._azure_waits()
        user = self._user(azure)
        pool = PoolSettings(min=self._fitted("pool_size.min", "pool_size.max"), max=self._get("pool_size.max"))
        return Profile(
            name=self.name,
            endpoints=tuple(
                Endpoint(host=host, port=port or KEY_BY_NAME["port"].default) for host, port in self._get("hosts") or ()
            ),
            database=self._get("database") or user,
            user=user,
            password=self._get("password"),
            tls=self._tls(is_azure=is_azure, use_ad=azure.use_ad),
            pool=pool,
            limits=Limits(
                rows=self._get("limits.rows"),
                cell_kb=self._fitted("limits.cell_kb", "limits.page_kb"),
                page_kb=self._get("limits.page_kb"),
                statement_s=self._fitted("limits.statement_s", "limits.call_s"),
                call_s=self._get("limits.call_s"),
                acquire_s=self._fitted("limits.acquire_s", "limits.call_s"),
            ),
            retry=RetrySettings(
                attempts=self._get("retry.attempts"),
                first_wait_s=self._fitted("retry.first_wait_s", "retry.max_wait_s"),
                max_wait_s=self._get("retry.max_wait_s"),
            ),
            azure=azure,
            target=self._get("target"),
            pooler=self._get("pooler"),
            posture=self._get("posture"),
            cache_s=self._get("cache_s"),
            allow_functions=self._get("allow_functions"),
            schemas=self._get("schemas"),
            search_path=self._get("search_path"),
            description=self._get("description"),
            production=self._get("production"),
            overrides=tuple(self.overrides.items()),
        )

    def _get(self, key: str) -> Any:
        return self._value(key, self.settings.get(key))

    def _value(self, key: str, setting: Setting | None) -> Any:
        if setting is not None:
            return setting.value
        if key in self.defaults:
            return self.defaults[key]
        return KEY_BY_NAME[key].default if key in KEY_BY_NAME else None

    def _fitted(self, small: str, large: str) -> Any:
        """Return the smaller of two values that must not pass each other; a default gives way silently."""
        low, high = self._get(small), self._get(large)
        if low <= high:
            return low
        if small in self.settings:
            default = "" if large in self.settings else ", the default"
            self.findings.faults.append(self.settings[small].fault(f"must not be above {large} = {high:g}{default}"))
        return high

    def _azure_waits(self) -> None:
        """Let the waits between tries default to Azure's advice, as far as a call has time for it.

        5 s before the second try, then twice as long each time up to 60 s ("Handling transient connectivity errors").
        """
        call_s = self._get("limits.call_s")
        self.defaults = {"retry.first_wait_s": min(5.0, call_s / 6), "retry.max_wait_s": min(60.0, call_s / 3)}

    def _azure(self) -> AzureSettings:
        settings = AzureSettings(
            server_type=self._get("azure_server_type"),
            use_ad=self._get("use_azure_ad"),
            credential=self._get("azure_credential"),
            key_vault_url=self._get("key_vault_url"),
            tenant_id=self._get("azure_tenant_id"),
            client_id=self._get("azure_client_id"),
            client_secret=self._get("azure_client_secret"),
        )
        password = self.settings.get("password")
        in_vault = password is not None and password.value.startswith("keyvault:")
        if password is not None and in_vault and not settings.key_vault_url and "key_vault_url" not in self.refused:
            self.findings.faults.append(password.fault("keyvault: needs key_vault_url, the address of the vault"))
        credential = self.settings.get("azure_credential")
        if credential is not None and not settings.use_ad and not in_vault:
            self.findings.warnings.append(
                f"{credential.place}: has no effect without use_azure_ad = true or a keyvault: password"
            )
        return settings

    def _user(self, azure: AzureSettings) -> str:
        setting = self.settings.get("user")
        if setting is None:
            if not self.refused & {"user", "url"}:
                key = "PGUSER" if self.place == "environment:" else "user"
                self.findings.faults.append(f"{self.place} {key}: is missing: name the role to log in as")
            return ""
        user: str = setting.value
        if azure.server_type != "single":
            return user
        if user.count("@") > 1:
            self.findings.faults.append(
                setting.fault("names a server more than once: a single server's is user@server")
            )
        if "@" in user:
            return user
        host = self._get("hosts")[0][0]
        server = host.partition(".")[0]
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", server):
            self.findings.faults.append(
                setting.fault(f'must be "{user}@SERVER": the host does not tell the name of the server')
            )
        return f"{user}@{server}"

    def _tls(self, *, is_azure: bool, use_ad: bool) -> Tls:
        mode, root = self.settings.get("ssl_mode"), self.settings.get("ssl_root_cert")
        is_open = mode is not None and mode.value in ("disable", "prefer")
        if mode is not None and is_open and use_ad:
            self.findings.faults.append(mode.fault("a token must not travel unencrypted: use verify-full"))
        found: Any = mode.value if mode else "verify-full" if is_azure else KEY_BY_NAME["ssl_mode"].default
        if root and root.value == "system" and found not in ("verify-ca", "verify-full"):
            self.findings.faults.append(root.fault(f"needs ssl_mode = verify-full, not {found}"))
        elif root and found in ("disable", "prefer"):
            self.findings.warnings.append(f"{root.place}: has no effect with ssl_mode = {found}: use verify-full")
        return Tls(mode=found, root_cert=root.value if root else None)


def url_settings(url: Setting, *, paths: Paths, findings: Findings) -> Layer:
    """Return the settings that a connection URL stands for."""
    dsn: Dsn = url.value
    values: dict[str, Any] = {"hosts": dsn.hosts or ((KEY_BY_NAME["host"].default, None),)}
    values |= {"user": dsn.user, "database": dsn.database, "password": dsn.password}
    if dsn.password is not None and dsn.password.startswith(REFERENCES):
        values["password"] = f"literal:{dsn.password}"  # a URL holds the password itself, whatever it looks like
    for option, raw in dsn.options:
        if option in _URL_UNUSED:
            findings.warnings.append(f"{url.place}: {option} is not used: {_URL_UNUSED[option]}")
            continue
        key = _URL_OPTIONS[option]
        try:
            value = KEY_BY_NAME[key].parse(raw)
        except ValueError as error:
            findings.faults.append(url.fault(f"{option} {error}"))
            continue
        values[key] = paths.anchor(key, value) if key == "ssl_root_cert" else value
    return {
        key: Setting(value=value, place=url.place, shown=url.shown, variable=url.variable)
        for key, value in values.items()
        if value is not None
    }


def _flat(table: Mapping[str, Any], *, place: str, findings: Findings) -> Iterator[tuple[str, Any]]:
    """Yield the known keys of a profile's table, those of inline tables as `group.key`."""
    for name, raw in table.items():
        if name in _GROUPS:
            if not isinstance(raw, dict):
                findings.faults.append(
                    f"{place} {name} = {shown_value(raw)}: must be a table, as {{ {_example(name)} }}"
                )
                continue
            inner = tuple(key.name for key in KEYS if key.name.startswith(f"{name}."))
            for part, value in raw.items():
                if f"{name}.{part}" in inner:
                    yield f"{name}.{part}", value
                else:
                    findings.faults.append(
                        f"{place} {name}.{quoted(part)}: unknown key; {nearest(f'{name}.{part}', inner)}"
                    )
        elif name in KEY_BY_NAME:
            yield name, raw
        else:
            findings.faults.append(f"{place} {quoted(name)}: unknown key; {nearest(name, _TABLE_KEYS)}")


def _example(group: str) -> str:
    return next(f"{key.name.partition('.')[2]} = {key.default}" for key in KEYS if key.name.startswith(f"{group}."))


def quoted(name: str) -> str:
    """Return a key as TOML writes it: bare where it can be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def shown_value(value: object, *, is_secret: bool = False) -> str:
    """Return a value as a fault may show it: short, on one line, without a secret."""
    if is_secret:
        return f'"{shown_dsn(value)}"' if isinstance(value, str) and "://" in value else "***"
    if isinstance(value, str):
        safe = redact(value)
        return json.dumps(safe if len(safe) <= _LONGEST_SHOWN else f"{safe[:_LONGEST_SHOWN]}…", ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > _PLAIN_BITS:
        return "a very large number"
    if isinstance(value, list | dict):
        return "[…]" if isinstance(value, list) else "{…}"
    return str(value)

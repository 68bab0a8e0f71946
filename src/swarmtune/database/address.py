"""Addresses of databases: a path, ``sqlite:///PATH`` or ``postgresql://USER@HOST/DB``."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from swarmtune.errors import ConfigurationError, MissingExtraError

SHOWN = 300  # characters of an address or a reason


def database_url(url: str) -> str:
    """The URL as SQLAlchemy wants it: PostgreSQL through psycopg 3, a bare path as SQLite.

    ConfigurationError for anything else, MissingExtraError without the driver.
    """
    try:
        url.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError("The study address is not UTF-8 text.") from error
    if "://" not in url:
        return URL.create("sqlite", database=url).render_as_string()
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        kind = url.partition("://")[0][:SHOWN]  # the rest may hold a password
        raise ConfigurationError(f"The study address {kind}://... is not a database URL; see docs/study.md.") from error
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        try:
            import psycopg  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise MissingExtraError("A study in PostgreSQL", "postgres") from error
        return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if backend != "sqlite":
        raise ConfigurationError(
            f"A study lives in SQLite (a path, or sqlite:///PATH) or PostgreSQL (postgresql://...), "
            f"not in {backend[:SHOWN]!r}."
        )
    return url


def shown_url(url: str) -> str:
    """The address of a database without its password."""
    whole = make_url(database_url(url)).render_as_string(hide_password=True)
    return whole if len(whole) <= SHOWN else f"{whole[:SHOWN]}..."

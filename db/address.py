"""Where a database lives: a plain path or a SQLAlchemy URL, understood once."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from autotune.db.errors import ELSEWHERE, StoreError


@dataclass(frozen=True, slots=True)
class Address:
    """A database's URL, and its file where it has one."""

    url: URL
    file: Path | None  # absolute; None for servers and for databases in memory

    @classmethod
    def parse(cls, url_or_path: str | Path) -> "Address":
        """Read a path, or anything with ``://`` in it as a URL.

        >>> Address.parse("/data/t.db").url.render_as_string()
        'sqlite:////data/t.db'

        Raises:
            StoreError: the text looks like a URL, but is none.
        """
        if isinstance(url_or_path, Path) or "://" not in url_or_path:
            return cls._of_file(URL.create("sqlite"), Path(url_or_path))
        try:
            url = make_url(url_or_path)
        except (ArgumentError, ValueError) as error:
            # Only the scheme is repeated: what follows may hold a password.
            scheme = url_or_path.partition("://")[0]
            raise StoreError(
                f"database URL {scheme}://... is malformed, but must read driver://user:password@host:port/name; "
                f"correct it, or {ELSEWHERE}"
            ) from error
        in_memory = url.database in (None, "", ":memory:")
        if url.get_backend_name() != "sqlite" or in_memory or "uri" in url.query:
            return cls(url, None)
        return cls._of_file(url, Path(str(url.database)))

    @classmethod
    def _of_file(cls, url: URL, path: Path) -> "Address":
        # Absolute, so that a later chdir or another process means the same file.
        try:
            file = path.expanduser().absolute()
        except RuntimeError as error:
            raise StoreError(f"database {path} names no home folder ({error}); {ELSEWHERE}") from error
        return cls(url.set(database=str(file)), file)

    @property
    def is_sqlite(self) -> bool:
        """Whether SQLite serves it."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def name(self) -> str:
        """The database as messages call it: its path, or its URL with the password hidden."""
        return str(self.file or self.url.render_as_string(hide_password=True))

"""The endpoint file, by which clients and the command line find a daemon.

JSON with mode 0600, because it holds the token. It is replaced as a whole: a reader sees the old file or the
new one, never a part. It is usually on a file system that all nodes of the job share.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from tracker_daemon.errors import DaemonNotRunning, EndpointError

ENDPOINT_FILE_NAME = "endpoint.json"
"""In the state directory: the endpoint file that every daemon writes, whatever its settings."""


class EndpointInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """The addresses of a daemon, and the token to use there.

    ``endpoint`` is the first of ``endpoints``; each is ``host:port`` or ``unix:/path``. ``pid`` is the
    daemon's process on ``host``. ``launch_key`` is the launch that the file belongs to, "" if it serves any.
    Unknown fields of a newer daemon are ignored.
    """

    endpoint: str
    endpoints: tuple[str, ...]
    token: str
    tls_root_pem: str | None
    pid: int
    host: str
    protocol_version: int
    launch_key: str | None = None

    def __repr__(self) -> str:
        # The token must not reach a log or a traceback.
        return f"EndpointInfo(endpoint={self.endpoint!r}, pid={self.pid}, host={self.host!r})"

    def write_atomically(self, path: Path) -> None:
        """Write the file to ``path`` atomically, with mode 0600.

        Raises:
            EndpointError: the directory cannot be created or written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        except OSError as error:
            msg = f"the endpoint file {path} cannot be written: {error.strerror}; set another --endpoint-file"
            raise EndpointError(msg) from error

    @staticmethod
    def read(path: Path) -> EndpointInfo:
        """Read the file at ``path``.

        Raises:
            DaemonNotRunning: it is missing.
            EndpointError: it is unreadable, or no endpoint file. Both messages say what to do.
        """
        try:
            return _decoder.decode(path.read_bytes())
        except FileNotFoundError:
            msg = f"there is no endpoint file {path}; a daemon writes it once it is ready: is one started?"
            raise DaemonNotRunning(msg) from None
        except OSError as error:
            msg = f"the endpoint file {path} cannot be read: {error.strerror}; only the daemon's own user may"
            raise EndpointError(msg) from error
        except msgspec.DecodeError as error:
            msg = f"{path} is not an endpoint file ({error}); give the path that the daemon was given"
            raise EndpointError(msg) from error


_decoder = msgspec.json.Decoder(EndpointInfo)


def _replace(path: Path, content: bytes) -> None:
    # In the same directory, since a rename is atomic within one filesystem only. mkstemp makes it 0600.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # on any error: clean up, and raise it again
        temporary.unlink(missing_ok=True)
        raise

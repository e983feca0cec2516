"""The certificate that the server shows, from files that may be renewed while it runs."""

import ssl
from pathlib import Path

from taskctl.errors import ConfigError


class Certificate:
    """A certificate with its chain in one PEM file, and its key in another.

    context: for the listening socket; it shows what the files held when they were last read. Raises ConfigError for files that
    cannot be used.
    """

    def __init__(self, cert: str, key: str) -> None:
        self._cert, self._key = cert, key
        self.context = self._now = self._read()
        self.context.sni_callback = self._show

    def renew(self) -> None:
        """Read the files again: new connections see what is in them. Raises ConfigError, and then all stays as it was."""
        self._now = self._read()

    def _show(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        # In place of loading new files into the context in use, which would be left without a key if they do not fit.
        del name, context
        connection.context = self._now

    def _read(self) -> ssl.SSLContext:
        for name, path in (("tls_cert", self._cert), ("tls_key", self._key)):
            try:
                Path(path).open("rb").close()
            except OSError as e:
                raise ConfigError(f"{name}: {path} cannot be read: {e.strerror}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert, self._key, password="")  # nosec B106  # or it would ask for one at the terminal
        except ssl.SSLError as e:
            if e.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(f"tls_key: {self._key} is not the key of the certificate in {self._cert}") from None
            raise ConfigError(
                f"tls_cert must be a certificate with its chain, and tls_key its key, both in PEM and the key not encrypted; "
                f"{self._cert} and {self._key} are not"
            ) from None
        return context

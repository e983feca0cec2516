"""The names of headers that every request is asked for, or every answer has.

As `istr` each is put into lower case once; a plain string would be at every use, which takes longer than the use itself.
"""

from typing import Final

from multidict import istr

CACHE_CONTROL: Final[str] = istr("Cache-Control")
CACHE_STATUS: Final[str] = istr("Cache-Status")
CONTENT_TYPE_OPTIONS: Final[str] = istr("X-Content-Type-Options")
ETAG: Final[str] = istr("ETag")
EXPECT: Final[str] = istr("Expect")
HOST: Final[str] = istr("Host")
IF_MATCH: Final[str] = istr("If-Match")
IF_NONE_MATCH: Final[str] = istr("If-None-Match")
LINK: Final[str] = istr("Link")
LOCATION: Final[str] = istr("Location")
PREFER: Final[str] = istr("Prefer")
REFERRER_POLICY: Final[str] = istr("Referrer-Policy")
REQUEST_ID: Final[str] = istr("X-Request-Id")
RESOURCE_POLICY: Final[str] = istr("Cross-Origin-Resource-Policy")
SECURITY_POLICY: Final[str] = istr("Content-Security-Policy")
SEQ: Final[str] = istr("X-Taskctl-Seq")
SERVER: Final[str] = istr("Server")
SERVER_TIMING: Final[str] = istr("Server-Timing")
TRANSFER_ENCODING: Final[str] = istr("Transfer-Encoding")
UPGRADE: Final[str] = istr("Upgrade")
VARY: Final[str] = istr("Vary")

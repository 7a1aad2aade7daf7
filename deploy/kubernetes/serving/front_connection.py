"""Fails once the connection to the front over which this engine takes requests is not the one that it began with.

vLLM connects again by itself when its front is replaced, but does not greet the new one, which therefore waits for it:
such an engine has to be started again. As long as there has been no connection, while a model is loaded, there is
nothing to fail for.
"""

import ipaddress
import os
import pathlib
import socket
import sys

ESTABLISHED = "01"
# In the container's own layer: gone when the container is started again.
FIRST = pathlib.Path(os.environ.get("FRONT_CONNECTION_FILE", "/var/tmp/front-connection"))


def address(hexadecimal: str) -> str:
    """An address as the kernel writes it: words of four bytes in the processor's order."""
    raw = bytes.fromhex(hexadecimal)
    words = [raw[start : start + 4] for start in range(0, len(raw), 4)]
    ordered = words if sys.byteorder == "big" else [word[::-1] for word in words]
    return plain(b"".join(ordered))


def plain(value) -> str:
    """The same text for the same address, an IPv4 one inside IPv6 too."""
    parsed = ipaddress.ip_address(value)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def connections(port: int) -> set[tuple[str, str]]:
    """The local port and the front's address of every connection to this port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = pathlib.Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for _, local, remote, state, *_ in map(str.split, lines):
            remote_address, remote_port = remote.split(":")
            if state == ESTABLISHED and int(remote_port, 16) == port:
                found.add((str(int(local.split(":")[1], 16)), address(remote_address)))
    return found


def front_addresses(host: str) -> set[str]:
    """Where the front is now. Nothing while it has no address, or names cannot be resolved."""
    try:
        return {plain(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return set()


def main() -> None:
    host, port = os.environ["FRONT_HOST"], int(os.environ["FRONT_PORT"])
    now = connections(port)
    if not FIRST.exists():
        if now:
            FIRST.write_text(" ".join(min(now)))
        return
    local_port, remote = FIRST.read_text().split()
    if (local_port, remote) not in now:
        sys.exit(f"the connection to {remote} with which this engine began is closed")
    # A host that vanished closes nothing.
    there = front_addresses(host)
    if there and remote not in there:
        sys.exit(f"{host} is no longer at {remote}")


main()

"""Ports for servers of tests, of which several run side by side on one machine."""

import socket


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def instead_of_fixed_ports() -> list[str]:
    """Arguments of `ray start --head`, for which every head would take the same ports by itself."""
    agent, client = free_ports(2)
    return [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]

"""A machine that we talk to: the way there, ssh, the stream, the handshake, connections that are kept."""

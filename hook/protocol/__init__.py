"""Wire protocols: bytes to values and back.  Nothing here opens a file or a socket."""

"""Throwaway machines with real Nix daemons and sshd, one root directory per Nix release.

    from tests.lab import roots
    from tests.lab.host import Host

    with Host("builder", roots.root("bookworm")) as builder, Host("client", roots.root("sid")) as client:
        builder.start_sshd()
        client.trust(builder)                         # `ssh builder` works for the client's root
        client.configure(builders="ssh-ng://builder x86_64-linux - 4")   # nix.conf; hook="/path" for a build hook
        client.start_daemon()                         # leave out for a single-user client
        client.write_file("/root/graph.nix", text)
        client.run(["nix-build", "-j0", "/root/graph.nix"])    # -> CompletedProcess; raises CommandError
        client.path("/nix/store")                     # the client's store as seen from outside
        client.reset_store()                          # an empty store again

`python -m tests.lab.setup` prepares a Debian machine: packages and roots.  Machines vanish with the process that made
them.
"""

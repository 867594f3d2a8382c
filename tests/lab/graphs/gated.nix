# Builds that say when they start and end, and in between wait at a gate of the machine they run on; see gates.py.
# Each has an input of its own, which must be there first.
{ seed }:
let
  gated =
    name:
    derivation {
      inherit name;
      input = builtins.toFile "input-of-${name}" "${seed}\n";
      system = builtins.currentSystem;
      builder = "/bin/sh";
      # Nothing but the shell itself: killed, it leaves no process behind.
      args = [
        "-euc"
        ''
          echo "+ $name" >> /srv/gates/log
          echo "$name waits"
          read -r word < /srv/gates/$name
          echo "- $name" >> /srv/gates/log
          echo "$word" > $out
        ''
      ];
    };
  names = [
    "a"
    "b"
    "c"
    "d"
    "e"
    "f"
    "g"
    "h"
  ];
in
builtins.listToAttrs (
  map (name: {
    inherit name;
    value = gated name;
  }) names
)

# Derivations that print what logs seldom contain.  As in graph.nix, `seed` makes each run a first one.
{ seed }:
let
  make =
    name: script:
    derivation {
      inherit name seed;
      system = builtins.currentSystem;
      builder = "/bin/sh";
      args = [
        "-euc"
        ''
          ${script}
          echo done > $out
        ''
      ];
      PATH = "/usr/bin:/bin";
    };
in
{
  bytes = make "bytes" ''
    printf 'latin \344\366\374, cut \303, beyond \377\376\n'
    printf 'nul [\000] escape [\033[1mbold\033[0m] bell [\007]\n'
    printf 'tab\tand trailing blanks  \n\n\nafter empty lines\n'
  '';

  long-line = make "long-line" ''
    head -c 200000 /dev/zero | tr '\0' x; echo
    echo after
  '';

  no-newline = make "no-newline" ''
    head -c 1000000 /dev/zero | tr '\0' y
  '';

  progress = make "progress" ''
    for i in $(seq 20); do printf '\r%d%%' $((i * 5)); done; echo
    printf 'over\rwritten\r\nand dos\r\n'
  '';

  phases = make "phases" ''
    echo '@nix { "action": "setPhase", "phase": "unpackPhase" }' >&2
    echo unpacking
    echo '@nix { "action": "setPhase", "phase": "buildPhase" }' >&2
    echo building
  '';

  # Only phases and file transfers may be told of by a builder.
  fakes = make "fakes" ''
    echo '@nix not json'
    echo '@nix'
    echo '@nix {"action":"msg","level":0,"msg":"believe me"}'
    echo '@nix {"action":"start","id":7,"level":0,"text":"faked","type":105,"fields":["a","b",1,1]}'
    echo '@nix {"action":"result","id":7,"type":101,"fields":["faked line"]}'
    echo '@nix {"action":"stop","id":7}'
    echo 'not at the start @nix {"action":"msg","level":0,"msg":"believe me"}'
    echo genuine
  '';

  # More lines than are shown of a failure.
  failing = make "failing" ''
    seq 100
    printf 'last words: \377\n'
    exit 1
  '';

  # Fails right behind more than fits into a pipe.
  failing-at-length = make "failing-at-length" ''
    seq 30000
    exit 1
  '';

  # Ended by limits.
  endless = make "endless" ''
    yes "the same line again"
  '';

  silent = make "silent" ''
    echo "nothing more to say"
    exec sleep infinity
  '';

  slow = make "slow" ''
    while echo "still there"; do sleep 0.2; done
  '';
}

# Compile nix-ferry's own C sources one by one, link them with a little program, run it.
# `sources` is a directory with native/*.[ch] and narhash.c.
{ sources }:
let
  make =
    name: script: attributes:
    derivation (
      {
        inherit name;
        system = builtins.currentSystem;
        builder = "/bin/sh";
        args = [
          "-euc"
          script
        ];
        PATH = "/usr/bin:/bin";
        source = sources;
      }
      // attributes
    );
  isC = name: builtins.match ".*\\.c" name != null;
  compile =
    file:
    make "${builtins.replaceStrings [ ".c" ] [ ".o" ] file}" ''
      gcc -std=c11 -D_GNU_SOURCE -O2 -I$source -c -o $out $source/${file}
    '' { };
in
rec {
  objects = map compile (builtins.filter isC (builtins.attrNames (builtins.readDir sources)));
  program = make "narhash" "gcc -o $out $objects -lcrypto" { inherit objects; };
  hash = make "hash-of-the-source" "$program $source | tee $out" { inherit program; };
}

# Content-addressed derivations whose output paths nobody knows before the build, and what depends on them.
# `seed` goes into each of them, so that a run with another seed finds nothing built already.
{ seed }:
let
  make =
    name: script: attributes:
    derivation (
      {
        inherit name seed;
        system = builtins.currentSystem;
        builder = "/bin/sh";
        args = [
          "-euc"
          script
        ];
        PATH = "/usr/bin:/bin";
      }
      // attributes
    );
  floating = {
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
in
rec {
  leaf = make "leaf" ''
    echo "making a leaf"
    mkdir $out
    cp -R $source $out/copy
    echo $seed > $out/seed
  '' (floating // { source = ./source; });

  # Outputs that refer to each other, to themselves and to an input, in an order that is not the one of their names.
  pair =
    make "pair"
      ''
        mkdir $out $dev
        echo "out is at $out" > $out/self
        ln -s $leaf $out/leaf
        ln -s $out $dev/out
        echo $seed > $doc
      ''
      (
        floating
        // {
          inherit leaf;
          outputs = [
            "out"
            "dev"
            "doc"
          ];
        }
      );

  # A single file, hashed as it is and with another algorithm.
  flat = make "flat" "echo $seed > $out" (
    floating
    // {
      outputHashMode = "flat";
      outputHashAlgo = "sha1";
    }
  );

  # Input-addressed, so that its path depends on what the others turned out to be.
  top = make "top" ''
    mkdir $out
    ln -s $dev $out/dev
    cat $doc $flat > $out/text
  '' {
    dev = pair.dev;
    doc = pair.doc;
    inherit flat;
  };

  fixed = make "fixed" ''printf %s "$seed" > $out'' {
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
    outputHash = builtins.hashString "sha256" seed;
  };

  failing = make "failing" ''
    echo "about to fail"
    exit 3
  '' floating;
}
